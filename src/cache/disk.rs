//! `DiskStore`: objects in the files of a directory, with a `MemoryStore` in front for the most used ones.

mod codec;
mod files;
pub(super) mod head;
mod index;
pub(super) mod journal;
mod reads;
mod removals;
mod scan;
mod spool;
mod store;
mod write;

use std::{
    collections::HashSet,
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed},
        },
    },
};

use tokio::sync::watch;

pub use self::{files::Durability, scan::SCAN_TIMEOUT};
use self::{
    files::{Files, is_transient},
    index::{Index, Meta},
    reads::Reads,
    removals::Removals,
    scan::ChangedKeys,
};
pub(super) use self::{
    journal::{Journal, Record},
    removals::Unsynced,
    spool::Spool,
};
use super::{
    clock::Clock,
    key::Key,
    marks::Marks,
    memory::MemoryStore,
    object::{Content, Object},
    store::Store,
};
use crate::{Budget, body::FileSlice};

/// The default capacity of a store on disk, 1 GiB.
pub const DISK_CAPACITY: u64 = 1 << 30;

/// The default maximum number of objects on disk, 1,000,000. The index of an object takes about 400 bytes of memory.
pub const MAX_DISK_OBJECTS: u64 = 1_000_000;

/// The default maximum length of a content on disk, 64 MiB.
pub const MAX_DISK_OBJECT: u64 = 64 << 20;

/// The part of the capacity that spools may use together: a quarter.
const MAX_SPOOLED_SHARE: u64 = 4;

/// The maximum number of bytes that wait to be written to disk, 64 MiB. Beyond it, objects are stored in memory only.
pub const MAX_WRITING: u64 = 64 << 20;

/// A store on disk, with a store in memory in front of it.
pub(super) struct DiskStore {
    inner: Arc<Inner>,
}

struct Inner {
    files: Arc<Files>,
    removals: Arc<Removals>,
    index: Index,
    /// Small objects, and the open files of large ones.
    memory: Arc<MemoryStore>,
    reads: Reads,
    /// Bounds the contents in memory.
    budget: Budget,
    max_object: u64,
    clock: Clock,
    /// Locked for every change of the index. Requests take this lock, so it is not held during a system call for a file.
    state: Mutex<State>,
    /// Locked while head files get their final names, and while files of invalidated objects are changed. Locked before
    /// `state`.
    heads: Mutex<()>,
    writing_len: AtomicU64,
    /// The number of heads of stored objects that wait to be written.
    waiting_heads: AtomicUsize,
    /// Whether writes have failed that are still in [`State::writing`].
    has_failed_writes: AtomicBool,
    /// The bytes that spools have reserved.
    spooled_len: AtomicU64,
    /// The bound of `spooled_len`.
    max_spooled: u64,
    /// The end of the pause in writes after a failure, in milliseconds of the clock.
    paused_until: AtomicU64,
    /// Whether the directory is being scanned.
    scanning: watch::Sender<bool>,
    /// Whether the store was dropped.
    is_closed: AtomicBool,
}

/// The writes in progress.
struct State {
    writing: Vec<Writing>,
    /// The ids of the contents of all spools.
    spools: HashSet<u64>,
    /// `None` after the scan.
    changed_keys: Option<ChangedKeys>,
}

impl State {
    /// Returns whether the object with this id is being written, and therefore not yet in the index.
    fn is_being_written(&self, id: u64) -> bool {
        self.spools.contains(&id) || self.writing.iter().any(|w| w.object.id == id)
    }

    /// Prevents the scan from adding older objects of this key to the index.
    fn note_changed(&mut self, key: &Key) {
        if let Some(changed_keys) = &mut self.changed_keys {
            changed_keys.insert(key);
        }
    }
}

/// An object that is being written. Removing this entry, as an invalidation does, cancels the commit.
struct Writing {
    key: Key,
    object: Arc<Object>,
    /// Whether no thread could be started for it.
    has_failed: Arc<AtomicBool>,
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
    /// Opens the directory and starts the scan for its objects. Returns the marks, with those of earlier processes, which
    /// are held until the scan has ended.
    pub(super) fn open(
        root: &Path,
        bounds: DiskBounds,
        memory: MemoryStore,
        clock: Clock,
        budget: Budget,
    ) -> io::Result<(Self, Arc<Marks>)> {
        let files = Arc::new(Files::open(root, bounds.durability)?);
        let marks = Marks::open(|restore| Journal::open(&files, restore)).map_err(|error| {
            let text = format!("cannot open the journal {}/marks: {error}", root.display());
            io::Error::new(error.kind(), text)
        })?;
        let marks = Arc::new(marks);
        let memory = Arc::new(memory);
        let removals = Arc::new(Removals::new(files.clone()));
        let index = Index::new(bounds, removals.clone(), memory.clone());
        let changed_keys = Some(ChangedKeys::new());
        let state = State { writing: Vec::new(), spools: HashSet::new(), changed_keys };
        let inner = Arc::new(Inner {
            files,
            removals,
            index,
            memory,
            reads: Reads::default(),
            budget,
            max_object: bounds.max_object,
            clock,
            state: Mutex::new(state),
            heads: Mutex::default(),
            writing_len: AtomicU64::new(0),
            waiting_heads: AtomicUsize::new(0),
            has_failed_writes: AtomicBool::new(false),
            spooled_len: AtomicU64::new(0),
            max_spooled: (bounds.capacity / MAX_SPOOLED_SHARE).max(bounds.max_object),
            paused_until: AtomicU64::new(0),
            scanning: watch::Sender::new(true),
            is_closed: AtomicBool::new(false),
        });
        scan::start(&inner, &marks)?;
        Ok((Self { inner }, marks))
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_failed_writes.load(Relaxed) && self.has_failed_writes.swap(false, Acquire) {
            state.writing.retain(|w| !w.has_failed.load(Relaxed));
        }
        state
    }

    /// Removes entries from the index, and their files in the background. If the process crashes in between, the next scan
    /// prefers a newer object of the same variant.
    fn discard(&self, key: &Key, selects: impl Fn(&Meta) -> bool) {
        self.removals.add(key, &self.index.remove(key, selects));
    }

    /// Reads an object, and inserts it into the memory store, with its open file if it is large.
    fn read(&self, key: &Key, meta: &Meta) -> Option<Arc<Object>> {
        let state = self.lock();
        // Another read may have ended after the lookup in memory.
        if let Some(object) = self.memory.find(key, meta.id) {
            self.reads.end(meta.id);
            return Some(object);
        }
        drop(state);
        let result = self.read_files(key, meta);
        let state = self.lock();
        // An invalidation from now on does not apply to this object, so a later lookup must not get it.
        self.reads.end(meta.id);
        let mut object = match result {
            Ok(object) => object,
            Err(error) => {
                tracing::debug!(%key, %error, "cannot read a stored response");
                if !is_transient(&error) {
                    // The object was removed during the read, or its files are damaged.
                    self.discard(key, |other| other.id == meta.id);
                }
                return None;
            }
        };
        let metas = self.index.get(key).unwrap_or_default();
        let current = metas.iter().find(|other| other.id == meta.id);
        // The object may have been removed, updated or become stale during the read.
        let current_meta = current.unwrap_or(meta);
        let is_current_head = current.is_some_and(|other| {
            other.revision == object.revision && other.freshness == object.freshness
        });
        (object.freshness, object.revision) = (current_meta.freshness, current_meta.revision);
        let object = Arc::new(object);
        // The store in memory is searched first, so it has no fields from before an update, and no object without the newer
        // ones that a request may select instead.
        let is_preferred =
            |other: &&Meta| other.revision > object.revision && object.may_overlap(&other.vary);
        let mut preferred = metas.iter().filter(is_preferred);
        if is_current_head && preferred.all(|other| self.memory.find(key, other.id).is_some()) {
            self.memory.insert(key, &object);
        }
        drop(state);
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
        let mut lease = self.budget.memory_lease();
        object.content = if len <= self.memory.max_object() && lease.try_set(len).is_ok() {
            let mut content = vec![0; usize::try_from(len).map_err(|_| damaged())?];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0)?;
            Content::leased(content, lease)
        } else {
            Content::File(FileSlice::new(Arc::new(file), 0, len))
        };
        Ok(object)
    }
}

impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskStore").field("files", &self.inner.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
