//! The scan of the directory after a start. Threads of their own add the objects of earlier processes to the index, while
//! requests are already served.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{key::Key, marks::Marks, store::Changes},
    Inner,
    files::is_transient,
    head,
    index::Meta,
};

/// The maximum duration of the scan of a directory, 10 minutes. Objects that it has not reached by then are removed.
pub const SCAN_TIMEOUT: Duration = Duration::from_secs(600);

/// The maximum number of keys that are stored or invalidated during the scan, 1,048,576. Beyond it, all objects that the
/// scan has not reached are removed.
pub(super) const MAX_CHANGED_KEYS: usize = 1 << 20;

/// The number of threads of the scan.
const THREADS: u8 = 4;

/// The pause before the scan repeats an operation for which the system had no file descriptor or memory, 100 milliseconds.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The keys that were changed during the scan. Their objects in the directory may be outdated and are not added to the index.
pub(super) struct ChangedKeys {
    /// Hashes of keys, which take less memory. A collision removes an object that is up to date.
    pub(super) keys: HashSet<u64>,
    random: RandomState,
    is_full: bool,
}

impl ChangedKeys {
    pub(super) fn new() -> Self {
        Self { keys: HashSet::new(), random: RandomState::new(), is_full: false }
    }

    /// Adds a key whose objects were stored, removed or invalidated.
    pub(super) fn insert(&mut self, key: &Key) {
        if self.keys.len() < MAX_CHANGED_KEYS {
            self.keys.insert(self.random.hash_one(key));
        } else {
            self.is_full = true;
        }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.is_full || self.keys.contains(&self.random.hash_one(key))
    }
}

/// Scans the directory in the background.
///
/// # Errors
/// If no thread can be started.
pub(super) fn start(inner: &Arc<Inner>, marks: &Arc<Marks>) -> io::Result<()> {
    let (inner, marks) = (inner.clone(), marks.clone());
    thread::Builder::new().name("cache-scan".to_owned()).spawn(move || {
        let scan = Scan { inner: &inner, marks: &marks, deadline: Instant::now() + SCAN_TIMEOUT };
        scan.run();
    })?;
    Ok(())
}

pub(super) struct Scan<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) marks: &'a Marks,
    pub(super) deadline: Instant,
}

impl Scan<'_> {
    pub(super) fn run(&self) {
        let scan_dirs =
            |first: u8| (first..=u8::MAX).step_by(THREADS.into()).for_each(|dir| self.scan(dir));
        thread::scope(|scope| {
            for first in 0..THREADS {
                let spawned = thread::Builder::new().spawn_scoped(scope, move || scan_dirs(first));
                if spawned.is_err() {
                    scan_dirs(first);
                }
            }
        });
        if self.inner.is_closed.load(Relaxed) {
            // What was not reached is judged after the next start.
            self.marks.fail();
        }
        // The scan has removed what earlier processes had invalidated; objects that it has made stale may have been evicted since.
        if !self.inner.removals.finish() {
            self.marks.fail();
        }
        let removals = self.inner.removals.take_unsynced();
        let synced = self.marks.sync_removals();
        self.inner.removals.end(removals, synced.is_synced);
        // Until here, an invalidation is recorded even if no object is found.
        self.inner.lock().changed_keys = None;
        self.marks.release(&synced);
        self.inner.scanning.send_replace(false);
    }

    fn scan(&self, dir: u8) {
        let is_closed = || self.inner.is_closed.load(Relaxed);
        let is_being_written = |id| self.inner.lock().is_being_written(id);
        let scan = || self.inner.files.scan(dir, is_closed, |id| self.add(id), is_being_written);
        if let Err(error) = self.retry(scan) {
            tracing::warn!(%error, "cannot read a part of the cache directory: its objects are not used");
            self.marks.fail();
            // They are found by the next process, so all invalidations until then are recorded.
            self.inner.removals.fail();
        }
    }

    /// Repeats an operation that fails since the system has no more file descriptors or memory, until the deadline.
    fn retry<T>(&self, operation: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match operation() {
                Err(error)
                    if is_transient(&error)
                        && Instant::now() < self.deadline
                        && !self.inner.is_closed.load(Relaxed) =>
                {
                    thread::sleep(RETRY_INTERVAL);
                }
                result => return result,
            }
        }
    }

    /// Adds an object to the index, if it is complete and its key was not changed during the scan. Returns whether to keep
    /// its files.
    fn add(&self, id: u64) -> bool {
        let inner = self.inner;
        if id > self.marks.first_id() {
            // It was stored during the scan, by this process.
            return true;
        }
        let read = || self.retry(|| inner.files.read_head(id)).ok();
        let head = (Instant::now() < self.deadline).then(read).flatten();
        if inner.is_closed.load(Relaxed) {
            return true; // the head may not have been read
        }
        let meta = head.and_then(|head| meta_of(inner, id, &head));
        let mut state = inner.lock();
        if state.is_being_written(id) {
            return true;
        }
        let Some((key, mut meta)) = meta else { return false };
        if inner.index.has(&key, id) {
            return true;
        }
        let changed_keys = state.changed_keys.get_or_insert_with(ChangedKeys::new);
        // The marks are applied under the lock, so that a sweep that starts later finds the entry.
        let mut changes = Changes::default();
        let verdict = self.marks.verdict(&key, &meta.groups, meta.revision);
        let is_kept = changes.record(id, &mut meta.freshness, verdict);
        let is_added =
            is_kept && !changed_keys.contains(&key) && inner.index.insert_newest(&key, &meta);
        drop(state);
        if !inner.expire_heads(&key, &changes) {
            self.marks.fail();
        }
        is_added
    }
}

/// Returns the key and the index entry of the object with this head, if it is complete.
fn meta_of(inner: &Inner, id: u64, head: &[u8]) -> Option<(Key, Meta)> {
    let (key, mut object, len) = head::decode(head)?;
    object.freshness.correct(inner.clock.now());
    let is_complete = object.id == id && inner.files.has_content(id, len);
    is_complete.then(|| (key, Meta::of(&object, len)))
}
