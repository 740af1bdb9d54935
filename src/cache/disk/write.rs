//! Writes objects and their heads on blocking threads.

use std::{
    fs::File,
    io,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, Release},
        },
    },
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::{
        key::Key,
        object::{Content, Object},
        pool::POOL,
        store::Changes,
    },
    Inner, MAX_WRITING, State, Writing, head,
    index::Meta,
};
use crate::net::blocking_pool::Job;

/// The maximum number of objects that wait to be written, 1,024, and that of heads of stored objects.
pub(super) const MAX_WRITES: usize = 1024;

/// The pause in writes after a failure, 10 seconds: a disk that is full or read-only probably stays so for a while.
const PAUSE: Duration = Duration::from_secs(10);

/// The lock of all changes of heads.
type HeadsGuard<'a> = MutexGuard<'a, ()>;

impl Inner {
    fn lock_heads(&self) -> HeadsGuard<'_> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_paused(&self) -> bool {
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX);
        now < self.paused_until.load(Relaxed)
    }

    /// Returns the job that writes an object. Returns `None` if too many bytes or objects are being written, or during the
    /// pause after a failure.
    pub(super) fn write(
        self: &Arc<Self>,
        state: &mut State,
        key: &Key,
        object: &Arc<Object>,
    ) -> Option<Box<Write>> {
        let (len, is_spooled) = (object.content.len(), state.spools.contains(&object.id));
        let (kind, in_memory) = match &object.content {
            Content::Memory(content) => (WriteKind::Content(content.clone()), len),
            Content::File(file) if is_spooled => (WriteKind::Spooled(file.file().clone()), 0),
            Content::File(_) => return None,
        };
        let is_full = state.writing.len() >= MAX_WRITES
            || self.writing_len.load(Relaxed) + in_memory > MAX_WRITING;
        if self.is_paused() || len > self.max_object || is_full {
            return None;
        }
        let head = head::encode(key, object, len)?;
        state.spools.remove(&object.id);
        self.writing_len.fetch_add(in_memory, Relaxed);
        let has_failed = Arc::<AtomicBool>::default();
        state.writing.push(Writing {
            key: key.clone(),
            object: object.clone(),
            has_failed: has_failed.clone(),
        });
        let (store, key, object) = (self.clone(), key.clone(), object.clone());
        Some(Box::new(Write { store, key, object, kind, head, has_run: false, has_failed }))
    }

    /// Writes the head of an object whose content is already on disk, in the background. If too many heads wait, or if it is too
    /// long, the object is removed from the disk, since it would have its earlier fields after a restart.
    pub(super) fn update_head(self: &Arc<Self>, key: &Key, object: &Arc<Object>) {
        if let Some(write) = self.write_head(key, object) {
            POOL.run(write);
            return;
        }
        let state = self.lock();
        self.memory.close_files(key, &[object.id]);
        self.discard(key, |meta| meta.id == object.id);
        drop(state);
    }

    fn write_head(self: &Arc<Self>, key: &Key, object: &Arc<Object>) -> Option<Box<Write>> {
        let head = head::encode(key, object, object.content.len())?;
        let add = |n: usize| (n < MAX_WRITES).then_some(n + 1);
        self.waiting_heads.fetch_update(Relaxed, Relaxed, add).ok()?;
        let (store, key, object) = (self.clone(), key.clone(), object.clone());
        let (kind, has_failed) = (WriteKind::Head, Arc::default());
        Some(Box::new(Write { store, key, object, kind, head, has_run: false, has_failed }))
    }

    /// Writes the expiry of objects to their heads, so that they are still stale after a restart. Returns whether all of it
    /// was written.
    pub(super) fn expire_heads(&self, key: &Key, changes: &Changes) -> bool {
        let mut is_written = true;
        for (id, at) in &changes.expired {
            // Locked before the head is read, since it may be about to get its name.
            let heads = self.lock_heads();
            let head = match self.files.read_head(*id) {
                Ok(head) => head,
                Err(error) => {
                    is_written &= error.kind() == io::ErrorKind::NotFound;
                    continue;
                }
            };
            let Some((read_key, mut object, len)) = head::decode(&head) else { continue };
            if read_key == *key && object.id == *id {
                object.freshness.expire(*at);
                if let Some(head) = head::encode(key, &object, len)
                    && let Err(error) = self.replace_head(&heads, key, *id, &head, |_| true)
                {
                    self.pause(&error);
                    is_written = false;
                }
            }
        }
        is_written
    }

    /// Removes objects from the disk. Returns whether none of them comes back.
    pub(super) fn remove_files(&self, ids: &[u64]) -> bool {
        // A head that is about to get its name is removed after that.
        let heads = self.lock_heads();
        let remove = |is_removed, id: &u64| self.files.remove(*id) && is_removed;
        let is_removed = ids.iter().fold(true, remove);
        drop(heads);
        is_removed
    }

    /// Replaces the head of an object, if `is_current` returns `true` for its entry in the index.
    fn replace_head(
        &self,
        _: &HeadsGuard<'_>,
        key: &Key,
        id: u64,
        head: &[u8],
        is_current: impl Fn(&Meta) -> bool,
    ) -> io::Result<()> {
        let is_current = || {
            let metas = self.index.get(key).unwrap_or_default();
            metas.iter().any(|meta| meta.id == id && is_current(meta))
        };
        if !is_current() {
            return Ok(());
        }
        let result = match self.files.write_head(id, head) {
            Ok(()) if is_current() => self.files.commit(id),
            result => {
                self.files.discard_head(id);
                result
            }
        };
        if !self.index.has(key, id) {
            // Its files may have been removed before the rename.
            let _ = self.files.remove(id);
        }
        result
    }

    /// Pauses writes after a failure.
    pub(super) fn pause(&self, error: &io::Error) {
        let until = u64::try_from((self.clock.now() + PAUSE).as_millis()).unwrap_or(u64::MAX);
        let before = self.paused_until.swap(until, Relaxed);
        if before + u64::try_from(PAUSE.as_millis()).unwrap_or(0) < until {
            tracing::warn!(%error, "cannot write to the cache directory: responses are stored in memory only");
        }
    }
}

/// The part of an object that is written in addition to its head.
enum WriteKind {
    Content(Bytes),
    /// The content is in this file and still has to be synchronized.
    Spooled(Arc<File>),
    Head,
}

/// Writes an object, or only its head.
pub(super) struct Write {
    store: Arc<Inner>,
    key: Key,
    object: Arc<Object>,
    kind: WriteKind,
    head: Vec<u8>,
    has_run: bool,
    /// The same as in [`Writing`].
    has_failed: Arc<AtomicBool>,
}

impl Job for Write {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(mut self: Box<Self>) {
        self.has_run = true;
        let (files, removals) = (&self.store.files, &self.store.removals);
        // A 304 stores an object again whose entry was evicted meanwhile: its new files have the names of the old ones.
        if !matches!(self.kind, WriteKind::Head) && removals.precede_write(self.object.id) {
            removals.finish();
        }
        let written = match &self.kind {
            WriteKind::Content(content) => Some(files.write_content(self.object.id, content)),
            WriteKind::Spooled(file) => Some(files.sync_content(file)),
            WriteKind::Head => None,
        };
        let result = match written {
            Some(written) => self.commit(written),
            None => self.write_head(),
        };
        if let Err(error) = result {
            self.store.pause(&error);
        }
    }

    fn fail(self: Box<Self>, error: &io::Error) {
        self.store.pause(error);
    }
}

impl Write {
    /// Commits an object whose content was written, and adds it to the index, unless it was invalidated during the write.
    fn commit(&mut self, written: io::Result<()>) -> io::Result<()> {
        let (id, store) = (self.object.id, self.store.clone());
        let mut result = written.and_then(|()| store.files.write_head(id, &self.head));
        let (mut is_renamed, mut was_renamed) = (false, false);
        // The state is not locked during the rename, since requests would wait for it. An invalidation during the rename
        // changes the entry at once, and waits for this lock before it changes files.
        let heads = store.lock_heads();
        loop {
            let mut state = store.lock();
            let place = state.writing.iter().position(|w| w.object.id == id);
            let Some(place) = place.filter(|_| result.is_ok()) else {
                place.map(|place| state.writing.swap_remove(place));
                break;
            };
            let current = state.writing[place].object.clone();
            if !current.is_unchanged(&self.object) {
                // It was updated or has become stale: a head of an earlier state would survive a crash.
                let Some(head) = head::encode(&self.key, &current, current.content.len()) else {
                    state.writing.swap_remove(place);
                    break;
                };
                drop(state);
                (self.object, is_renamed) = (current, false);
                result = store.files.write_head(id, &head);
            } else if is_renamed {
                state.writing.swap_remove(place);
                store.index.insert(&self.key, &Meta::of(&current, current.content.len()));
                return result;
            } else {
                drop(state);
                (is_renamed, was_renamed) = (true, true);
                result = store.files.commit(id);
            }
        }
        // It is not stored.
        if was_renamed {
            // Power loss may undo the removal.
            store.removals.add(&self.key, &[id]);
        } else {
            let _ = store.files.remove(id);
        }
        drop(heads);
        result
    }

    /// Writes the head of a stored object, unless a later update has replaced its freshness.
    fn write_head(&self) -> io::Result<()> {
        let Self { store, key, object, head, .. } = self;
        let is_current = |meta: &Meta| meta.freshness == object.freshness;
        store.replace_head(&store.lock_heads(), key, object.id, head, is_current)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        match &self.kind {
            WriteKind::Content(content) => {
                self.store.writing_len.fetch_sub(content.len() as u64, Relaxed);
            }
            WriteKind::Spooled(_) => {}
            WriteKind::Head => {
                self.store.waiting_heads.fetch_sub(1, Relaxed);
                return;
            }
        }
        // The pool drops a job on the thread that submits one if it can start no thread. That thread may have locked the
        // state, so it is not locked here.
        if !self.has_run {
            self.has_failed.store(true, Relaxed);
            self.store.has_failed_writes.store(true, Release);
        }
    }
}
