//! Writes objects and their heads on blocking threads.

use std::{
    fs::File,
    io,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
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
    Inner, MAX_WRITING, State, Writing, head, index,
    index::Meta,
};
use crate::net::blocking_pool::Job;

/// The maximum number of objects that wait to be written, 1,024.
const MAX_WRITES: usize = 1024;

/// The pause in writes after a failure, 10 seconds: a disk that is full or read-only probably stays so for a while.
const PAUSE: Duration = Duration::from_secs(10);

impl Inner {
    pub(super) fn is_paused(&self) -> bool {
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX);
        now < self.paused_until.load(Relaxed)
    }

    /// Writes an object on a blocking thread. Does nothing if too many bytes or objects are being written, or during the
    /// pause after a failure.
    pub(super) fn write(self: &Arc<Self>, state: &mut State, key: &Key, object: &Arc<Object>) {
        let (len, is_spooled) = (object.content.len(), state.spools.contains(&object.id));
        let (kind, in_memory) = match &object.content {
            Content::Memory(content) => (WriteKind::Content(content.clone()), len),
            Content::File(file) if is_spooled => (WriteKind::Spooled(file.file().clone()), 0),
            Content::File(_) => return,
        };
        let is_full = state.writing.len() >= MAX_WRITES
            || self.writing_len.load(Relaxed) + in_memory > MAX_WRITING;
        if self.is_paused() || len > self.max_object || is_full {
            return;
        }
        let Some(head) = head::encode(key, object, len) else { return };
        state.spools.remove(&object.id);
        self.writing_len.fetch_add(in_memory, Relaxed);
        state.writing.push(Writing { key: key.clone(), object: object.clone() });
        let (store, key, object) = (self.clone(), key.clone(), object.clone());
        POOL.run(Box::new(Write { store, key, object, kind, head, has_run: false }));
    }

    /// Writes the head of an object whose content is already on disk.
    pub(super) fn write_head(self: &Arc<Self>, key: &Key, object: &Arc<Object>) {
        let Some(head) = head::encode(key, object, object.content.len()) else { return };
        let (store, key, object) = (self.clone(), key.clone(), object.clone());
        let kind = WriteKind::Head;
        POOL.run(Box::new(Write { store, key, object, kind, head, has_run: false }));
    }

    /// Writes the expiry of objects to their heads, so that they are still stale after a restart. Returns whether all of it
    /// was written.
    pub(super) fn expire_heads(&self, key: &Key, changes: &Changes) -> bool {
        let mut is_written = true;
        for (id, at) in &changes.expired {
            let head = self.files.read_head(*id).ok();
            let Some((read_key, mut object, len)) = head.and_then(|head| head::decode(&head))
            else {
                continue;
            };
            if read_key == *key && object.id == *id {
                object.freshness.expire(*at);
                if let Some(head) = head::encode(key, &object, len)
                    && let Err(error) = self.replace_head(key, *id, &head, |_| true)
                {
                    self.pause(&error);
                    is_written = false;
                }
            }
        }
        is_written
    }

    /// Replaces the head of an object, if `is_current` returns `true` for its entry in the index.
    pub(super) fn replace_head(
        &self,
        key: &Key,
        id: u64,
        head: &[u8],
        is_current: impl Fn(&Meta) -> bool,
    ) -> io::Result<()> {
        let is_current = || {
            let metas = self.index.get(key).unwrap_or_default();
            metas.iter().any(|meta| meta.id == id && is_current(meta))
        };
        // Two updates of an object write the same temporary file. Requests do not take this lock.
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_current() {
            return Ok(());
        }
        let written = self.files.write_head(id, head);
        let state = self.lock();
        let result = match written {
            Ok(()) if is_current() => self.files.commit(id),
            result => {
                self.files.discard_head(id);
                result
            }
        };
        drop(state);
        drop(heads);
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
struct Write {
    store: Arc<Inner>,
    key: Key,
    object: Arc<Object>,
    kind: WriteKind,
    head: Vec<u8>,
    has_run: bool,
}

impl Job for Write {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(mut self: Box<Self>) {
        self.has_run = true;
        let files = &self.store.files;
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
        let id = self.object.id;
        let mut written = written.and_then(|()| self.store.files.write_head(id, &self.head));
        loop {
            let mut state = self.store.lock();
            let place = state.writing.iter().position(|w| w.object.id == id);
            let current = place.map(|at| state.writing[at].object.clone());
            if let (Some(current), Ok(())) = (&current, &written)
                && !current.is_unchanged(&self.object)
                && let Some(head) = head::encode(&self.key, current, current.content.len())
            {
                // It was updated or has become stale: a head of an earlier state would survive a crash.
                drop(state);
                self.object = current.clone();
                written = self.store.files.write_head(id, &head);
                continue;
            }
            place.map(|at| state.writing.swap_remove(at));
            let committed = match (&current, written) {
                (Some(_), Ok(())) => self.store.files.commit(id),
                (_, result) => result,
            };
            match current.filter(|_| committed.is_ok()) {
                Some(current) => {
                    let meta = Meta::of(&current, current.content.len());
                    self.store.index.insert(&self.key, meta);
                }
                None => index::remove_later(&self.store.files, vec![id]),
            }
            return committed;
        }
    }

    /// Writes the head of a stored object, unless a later update has replaced its freshness.
    fn write_head(&self) -> io::Result<()> {
        let Self { store, key, object, head, .. } = self;
        store.replace_head(key, object.id, head, |meta| meta.freshness == object.freshness)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        match &self.kind {
            WriteKind::Content(content) => {
                self.store.writing_len.fetch_sub(content.len() as u64, Relaxed);
            }
            WriteKind::Spooled(_) => {}
            WriteKind::Head => return,
        }
        if !self.has_run {
            self.store.lock().writing.retain(|w| w.object.id != self.object.id);
        }
    }
}
