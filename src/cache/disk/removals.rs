//! `Removals`: the files of objects that are no longer in the index. They are removed in the background.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{
    super::{
        key::{Key, KeyHasher},
        pool,
    },
    files::Files,
};

/// The number of files that wait above which writes wait for their removal, 1,024.
const MAX_WAITING: usize = 1024;

/// The number of removals that are not synchronized to the disk above which they are, 16,384.
const MAX_UNSYNCED: usize = 16_384;

/// The maximum number of keys and of unsynchronized removals that are known individually, 262,144: 12 MiB. Beyond it, for
/// example while a synchronization hangs, an object of any key may come back.
const MAX_TRACKED: usize = 1 << 18;

/// The files that are still to be removed, and those whose removal power loss may undo. The next process would find their
/// objects, so an invalidation of such a key is recorded, and the record is kept until their removal is on disk.
pub(super) struct Removals {
    files: Arc<Files>,
    queue: Mutex<Queue>,
    /// Locked while files are removed.
    removing: Mutex<()>,
    /// Whether files could not be removed, or their removal not synchronized, so that the next process may find any object.
    has_failed: AtomicBool,
    hasher: KeyHasher,
}

#[derive(Default)]
struct Queue {
    /// The hash of the key and the id of each object.
    waiting: Vec<(u64, u64)>,
    /// The ids of all objects whose files are still there, including those that are being removed.
    ids: HashSet<u64>,
    /// The objects whose files were removed and that power loss may bring back.
    unsynced: Unsynced,
    /// The number of objects of each key that may come back, by the hash of the key. A collision costs a record.
    len_by_key: HashMap<u64, usize>,
    /// The number of objects that may come back beyond [`MAX_TRACKED`].
    untracked: usize,
    /// Whether a job was submitted that has not begun.
    is_submitted: bool,
    /// Whether a job synchronizes removals, so that a disk that hangs blocks no further thread.
    is_syncing: bool,
}

/// Removed objects, until their removal is synchronized.
#[derive(Debug, Default)]
#[must_use]
pub(in crate::cache) struct Unsynced {
    /// The hashes of their keys.
    hashes: Vec<u64>,
    /// The number of further objects.
    untracked: usize,
}

/// Resets [`Queue::is_submitted`] when the job begins, or is dropped since no thread can be started.
struct Submitted(Arc<Removals>);

impl Drop for Submitted {
    fn drop(&mut self) {
        self.0.lock().is_submitted = false;
    }
}

impl Removals {
    pub(super) fn new(files: Arc<Files>) -> Self {
        Self {
            files,
            queue: Mutex::default(),
            removing: Mutex::default(),
            has_failed: AtomicBool::new(false),
            hasher: KeyHasher::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of objects on a blocking thread. If none can be started, a later removal or invalidation removes them.
    ///
    /// An object that already waits is not added again: files with its id that are written after its removal would be
    /// removed, too.
    pub(super) fn add(self: &Arc<Self>, key: &Key, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let mut queue = self.lock();
        for id in ids {
            if queue.ids.insert(*id) {
                queue.waiting.push((hash, *id));
                queue.begin(hash);
            }
        }
        let is_submitted = std::mem::replace(&mut queue.is_submitted, true);
        drop(queue);
        if !is_submitted {
            let submitted = Submitted(self.clone());
            pool::run(move || {
                let removals = submitted.0.clone();
                drop(submitted);
                removals.finish();
                removals.sync_if_many();
            });
        }
    }

    /// Lets files wait until [`finish`](Self::finish) is called.
    #[cfg(test)]
    pub(super) fn hold(&self) {
        self.lock().is_submitted = true;
    }

    /// Returns the number of objects whose files wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Lets [`finish`](Self::finish) wait until the guard is dropped.
    #[cfg(test)]
    pub(super) fn block(&self) -> MutexGuard<'_, ()> {
        self.removing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files that wait, and waits for those that another thread removes. Blocks. Returns `false` if a file could not
    /// be removed.
    pub(super) fn finish(&self) -> bool {
        let removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = std::mem::take(&mut self.lock().waiting);
        for (hash, id) in waiting {
            if !self.files.remove(id) {
                self.has_failed.store(true, Relaxed);
            }
            let mut queue = self.lock();
            queue.ids.remove(&id);
            if self.files.survives_power_loss() {
                queue.add_unsynced(hash);
            } else {
                queue.end(hash);
            }
        }
        drop(removing);
        !self.has_failed.load(Relaxed)
    }

    /// Returns the removals to synchronize, for [`end`](Self::end).
    pub(super) fn take_unsynced(&self) -> Unsynced {
        std::mem::take(&mut self.lock().unsynced)
    }

    /// Ends removals after their synchronization. If that has failed, objects of all keys may come back from now on: a later
    /// success would not prove that these removals are on disk.
    pub(super) fn end(&self, unsynced: Unsynced, is_synced: bool) {
        if !is_synced {
            self.has_failed.store(true, Relaxed);
        }
        let mut queue = self.lock();
        queue.untracked -= unsynced.untracked;
        unsynced.hashes.into_iter().for_each(|hash| queue.end(hash));
    }

    /// Notes that the next process may find objects that are not in the index.
    pub(super) fn fail(&self) {
        self.has_failed.store(true, Relaxed);
    }

    fn sync_if_many(&self) {
        let mut queue = self.lock();
        if queue.is_syncing || queue.unsynced.hashes.len() < MAX_UNSYNCED {
            return;
        }
        queue.is_syncing = true;
        let unsynced = std::mem::take(&mut queue.unsynced);
        drop(queue);
        self.end(unsynced, self.files.sync().is_ok());
        self.lock().is_syncing = false;
    }

    /// Returns whether the files of the object with this id, which is stored again, are not removed yet, or many files are not,
    /// so that a write must [`finish`](Self::finish) their removal.
    pub(super) fn precede_write(&self, id: u64) -> bool {
        let queue = self.lock();
        queue.waiting.len() > MAX_WAITING || queue.ids.contains(&id)
    }

    /// Returns whether the next process may find an object of this key that is not in the index.
    pub(super) fn may_come_back(&self, key: &Key) -> bool {
        self.has_failed.load(Relaxed) || self.lock().has(self.hasher.hash_one(key))
    }
}

impl Queue {
    fn has(&self, hash: u64) -> bool {
        self.untracked > 0 || self.len_by_key.contains_key(&hash)
    }

    /// Notes that an object may come back.
    fn begin(&mut self, hash: u64) {
        if self.len_by_key.len() < MAX_TRACKED {
            *self.len_by_key.entry(hash).or_default() += 1;
        } else {
            self.untracked += 1;
        }
    }

    /// Adds an object whose files were removed.
    fn add_unsynced(&mut self, hash: u64) {
        if self.unsynced.hashes.len() < MAX_TRACKED {
            self.unsynced.hashes.push(hash);
        } else {
            self.end(hash);
            self.untracked += 1;
            self.unsynced.untracked += 1;
        }
    }

    /// Notes that an object cannot come back.
    fn end(&mut self, hash: u64) {
        if let Some(len) = self.len_by_key.get_mut(&hash) {
            *len -= 1;
            if *len == 0 {
                self.len_by_key.remove(&hash);
            }
        } else {
            // It began beyond the limit. An object of the same key may have ended instead of it; the total is the same.
            self.untracked -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_tracks_a_bounded_number_of_removals_and_forgets_none() {
        let (mut queue, many) = (Queue::default(), 2 * MAX_TRACKED as u64);
        for hash in 0..many {
            // Each key has a second object.
            queue.begin(hash);
            queue.begin(hash);
        }
        assert!(queue.len_by_key.len() <= MAX_TRACKED && queue.has(many - 1));
        (0..many).for_each(|hash| queue.add_unsynced(hash));
        assert!(queue.unsynced.hashes.len() <= MAX_TRACKED);
        assert!(queue.has(0) && queue.has(many - 1));
        let unsynced = std::mem::take(&mut queue.unsynced);
        queue.untracked -= unsynced.untracked;
        unsynced.hashes.into_iter().for_each(|hash| queue.end(hash));
        assert!(queue.has(0) && queue.has(many - 1), "the second objects");
        (0..many).for_each(|hash| queue.end(hash));
        assert!(queue.len_by_key.is_empty() && queue.untracked == 0);
    }
}
