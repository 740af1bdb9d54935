//! `DiskStore`: objects in a folder, with those that are used most in memory too.

mod files;
mod head;
mod index;
mod scan;
mod spool;
mod write;

use std::{
    collections::HashSet,
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::watch;

pub(super) use self::spool::Spool;
pub use self::{files::Durability, scan::SCAN_TIMEOUT};
use self::{
    files::Files,
    index::{Index, Meta},
    scan::ChangedKeys,
};
use super::{
    clock::Clock,
    key::Key,
    marks::{Marks, Verdict},
    memory::MemoryStore,
    object::{Content, Object},
    pool::{self, POOL},
    store::{Changes, Found, Judge, Lookup, Purge, Store},
};
use crate::body::FileSlice;

/// The default bytes on disk, 1 GiB.
pub const DISK_CAPACITY: u64 = 1 << 30;

/// The default number of objects on disk, 1,000,000. An object takes about 400 bytes of memory.
pub const MAX_DISK_OBJECTS: u64 = 1_000_000;

/// The default largest content on disk, 64 MiB.
pub const MAX_DISK_OBJECT: u64 = 64 << 20;

/// The share of the capacity that contents may take while they are written from the origin, a quarter.
const MAX_SPOOLED_SHARE: u64 = 4;

/// The bytes that wait to be written, 64 MiB. Objects beyond are stored in memory only.
pub const MAX_WRITING: u64 = 64 << 20;

/// Objects on disk and in memory.
pub(super) struct DiskStore {
    inner: Arc<Inner>,
}

struct Inner {
    files: Arc<Files>,
    index: Index,
    memory: MemoryStore,
    max_object: u64,
    clock: Clock,
    /// All changes of the index happen under this lock, and the naming of heads.
    state: Mutex<State>,
    /// Held while the head of a stored object is replaced; taken before `state`.
    heads: Mutex<()>,
    writing_len: AtomicU64,
    /// The bytes of contents that are being written before their objects are inserted.
    spooled_len: AtomicU64,
    /// The bound of `spooled_len`.
    max_spooled: u64,
    /// Until when nothing is written, in milliseconds of the clock.
    paused_until: AtomicU64,
    /// Whether the folder is being scanned.
    scanning: watch::Sender<bool>,
    /// The store was dropped.
    is_closed: AtomicBool,
}

/// What is on its way to the disk.
struct State {
    writing: Vec<Writing>,
    /// The ids of contents that are being written before their objects are inserted.
    spools: HashSet<u64>,
    /// `None` after the scan.
    changed_keys: Option<ChangedKeys>,
}

impl State {
    /// Returns whether the object with this id, which is not in the index, is being written.
    fn is_live(&self, id: u64) -> bool {
        self.spools.contains(&id) || self.writing.iter().any(|w| w.object.id == id)
    }

    /// Keeps what the scan finds of a key out of the index.
    fn note_changed(&mut self, key: &Key) {
        if let Some(changed_keys) = &mut self.changed_keys {
            changed_keys.insert(key);
        }
    }
}

/// An object that is being written. It is removed if the object is invalidated, and is then not committed.
struct Writing {
    key: Key,
    object: Arc<Object>,
}

/// The bounds of a store on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct DiskBounds {
    pub(super) capacity: u64,
    pub(super) max_objects: u64,
    pub(super) max_object: u64,
    pub(super) max_variants: usize,
    pub(super) durability: Durability,
}

impl DiskStore {
    /// Opens the folder, and begins to read what is there. `marks` are held until that has ended.
    pub(super) fn open(
        root: &Path,
        bounds: DiskBounds,
        memory: MemoryStore,
        clock: Clock,
        marks: &Arc<Marks>,
    ) -> io::Result<Self> {
        let files = Arc::new(Files::open(root, bounds.durability)?);
        let index = Index::new(bounds, files.clone());
        let changed_keys = Some(ChangedKeys::new());
        let state = State { writing: Vec::new(), spools: HashSet::new(), changed_keys };
        let inner = Arc::new(Inner {
            files,
            index,
            memory,
            max_object: bounds.max_object,
            clock,
            state: Mutex::new(state),
            heads: Mutex::default(),
            writing_len: AtomicU64::new(0),
            spooled_len: AtomicU64::new(0),
            max_spooled: (bounds.capacity / MAX_SPOOLED_SHARE).max(bounds.max_object),
            paused_until: AtomicU64::new(0),
            scanning: watch::Sender::new(true),
            is_closed: AtomicBool::new(false),
        });
        marks.hold();
        scan::start(&inner, marks)?;
        Ok(Self { inner })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.inner.is_closed.store(true, Relaxed);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes entries of the index, and later their files. After a crash before that a later object of the variant counts.
    fn discard(&self, key: &Key, selects: impl Fn(&Meta) -> bool) {
        index::remove_later(&self.files, self.index.remove(key, selects));
    }

    /// Reads an object, and keeps it in memory if it is small.
    fn read(&self, key: &Key, meta: &Meta) -> Option<Arc<Object>> {
        let result = self.read_files(key, meta);
        let writing = self.lock();
        let mut object = match result {
            Ok(object) => object,
            Err(error) => {
                // Removed meanwhile, or damaged: either way it is of no use.
                tracing::debug!(%key, %error, "cannot read a stored response");
                self.discard(key, |other| other.id == meta.id);
                return None;
            }
        };
        let metas = self.index.get(key).unwrap_or_default();
        let current = metas.iter().find(|other| other.id == meta.id);
        // It may have become stale, or was removed, while it was read.
        let current_meta = current.unwrap_or(meta);
        (object.freshness, object.revision) = (current_meta.freshness, current_meta.revision);
        let object = Arc::new(object);
        if current.is_some() && object.content.len() <= self.memory.max_object() {
            self.memory.insert(key, &object);
        }
        drop(writing);
        Some(object)
    }

    fn read_files(&self, key: &Key, meta: &Meta) -> io::Result<Object> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the head is damaged");
        let head = self.files.read_head(meta.id)?;
        let (read_key, mut object, len) = head::decode(&head).ok_or_else(damaged)?;
        if read_key != *key || object.id != meta.id {
            return Err(damaged());
        }
        let file = self.files.open_content(meta.id, len)?;
        object.content = if len <= self.memory.max_object() {
            let mut content = vec![0; usize::try_from(len).map_err(|_| damaged())?];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0)?;
            Content::Memory(Bytes::from(content))
        } else {
            Content::File(FileSlice::new(Arc::new(file), 0, len))
        };
        Ok(object)
    }
}

impl Store for DiskStore {
    fn get(&self, key: &Key, request: &HeaderMap) -> Lookup {
        let Lookup::Ready(found) = self.inner.memory.get(key, request) else {
            unreachable!("memory is read at once")
        };
        if found.object.is_some() {
            return Lookup::Ready(found);
        }
        let is_writing = |w: &&Writing| w.key == *key && w.object.matches(request);
        if let Some(writing) = self.inner.lock().writing.iter().rev().find(is_writing) {
            return Lookup::Ready(Found { object: Some(writing.object.clone()), has_others: true });
        }
        let Some(metas) = self.inner.index.get(key) else { return Lookup::Ready(found) };
        let Some(meta) = metas.iter().find(|meta| meta.matches(request)).cloned() else {
            return Lookup::Ready(Found { object: None, has_others: true });
        };
        let (inner, key) = (self.inner.clone(), key.clone());
        let read = POOL.call(move || inner.read(&key, &meta));
        Lookup::Pending(Box::pin(async move {
            let object = read.await.ok().and_then(Result::ok).flatten();
            Found { object, has_others: true }
        }))
    }

    fn insert(&self, key: &Key, object: &Arc<Object>) {
        let inner = &self.inner;
        let mut state = inner.lock();
        state.note_changed(key);
        if object.content.len() <= inner.memory.max_object() {
            inner.memory.insert(key, object);
        }
        if let Some(w) = state.writing.iter_mut().find(|w| w.object.id == object.id) {
            // Only its fields are new: they are written behind the content.
            w.object = object.clone();
            return;
        }
        state.writing.retain(|w| w.key != *key || !w.object.is_same_variant(object));
        if inner.index.has(key, object.id) {
            // Only its fields are new.
            inner.index.insert(key, Meta::of(object, object.content.len()));
            inner.write_head(key, object);
            return;
        }
        inner.discard(key, |meta| meta.is_same_variant(object));
        inner.write(&mut state, key, object);
    }

    fn replace(&self, key: &Key, old: &Object, new: &Arc<Object>) {
        let inner = &self.inner;
        let mut state = inner.lock();
        inner.memory.replace(key, old, new);
        let mut writes = state.writing.iter_mut().filter(|w| w.key == *key);
        if let Some(w) = writes.find(|w| w.object.is_unchanged(old)) {
            w.object = new.clone();
            return;
        }
        let metas = inner.index.get(key).unwrap_or_default();
        if metas.iter().any(|meta| meta.id == old.id && meta.freshness == old.freshness) {
            inner.index.insert(key, Meta::of(new, new.content.len()));
            inner.write_head(key, new);
        }
    }

    fn remove(&self, key: &Key, object: &Object) {
        let mut state = self.inner.lock();
        state.note_changed(key);
        self.inner.memory.remove(key, object);
        state.writing.retain(|w| w.key != *key || !w.object.is_same_variant(object));
        self.inner.discard(key, |meta| meta.is_same_variant(object));
    }

    fn invalidate(&self, key: &Key, purge: Purge) {
        let at = self.inner.clock.now();
        let verdict = match purge {
            Purge::Hard => Verdict::Remove,
            Purge::Soft => Verdict::Expire(at),
        };
        self.inner.lock().note_changed(key);
        let changes = self.judge(key, &|_, _, _| verdict);
        if purge == Purge::Hard {
            self.settle(key, changes);
        } else {
            let (inner, key) = (self.inner.clone(), key.clone());
            pool::run(move || inner.expire_heads(&key, &changes));
        }
    }

    fn visit(&self, judge: Judge<'_>, selected: &mut dyn FnMut(&Key)) {
        let keys: Vec<_> = self.inner.lock().writing.iter().map(|w| w.key.clone()).collect();
        keys.iter().for_each(&mut *selected);
        self.inner.memory.visit(judge, selected);
        self.inner.index.visit(judge, selected);
    }

    fn judge(&self, key: &Key, judge: Judge<'_>) -> Changes {
        let inner = &self.inner;
        let mut state = inner.lock();
        inner.memory.judge(key, judge);
        let mut changes = inner.index.judge(key, judge);
        state.writing.retain_mut(|w| {
            if w.key != *key {
                return true;
            }
            let mut object = Object::clone(&w.object);
            let verdict = judge(key, &object.groups, object.revision);
            let stays = changes.note(object.id, &mut object.freshness, verdict);
            w.object = Arc::new(object);
            stays
        });
        changes
    }

    fn settle(&self, key: &Key, changes: Changes) {
        changes.removed.iter().for_each(|id| self.inner.files.remove(*id));
        self.inner.expire_heads(key, &changes);
    }

    fn usage(&self) -> (u64, u64) {
        self.inner.index.usage()
    }

    fn max_object(&self) -> u64 {
        self.inner.max_object
    }

    fn max_in_memory(&self) -> u64 {
        self.inner.memory.max_object()
    }

    fn spool(&self, id: u64) -> Option<Spool> {
        (!self.inner.is_paused()).then(|| Spool::new(self.inner.clone(), id))
    }

    fn loaded(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut scanning = self.inner.scanning.subscribe();
        Box::pin(async move {
            // An error if the store was dropped.
            let _ = scanning.wait_for(|is_scanning| !is_scanning).await;
        })
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("files", &self.inner.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
