//! The scan of the folder at the start: it enters what is there into the index, in threads of its own, while requests are
//! served.

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
    Inner, head,
    index::Meta,
};

/// The time that the scan of the folder may take, 10 minutes. What was not reached then is removed.
pub const SCAN_TIMEOUT: Duration = Duration::from_secs(600);

/// The keys that may be stored or invalidated during the scan, 1,048,576. With more, what was not reached is removed.
const MAX_CHANGED_KEYS: usize = 1 << 20;

/// The threads of the scan.
const THREADS: u8 = 4;

/// What of the folder may not be entered into the index any more.
pub(super) struct ChangedKeys {
    /// Hashes of keys, which take less memory; another key with the same hash is fetched again.
    keys: HashSet<u64>,
    random: RandomState,
    is_full: bool,
}

impl ChangedKeys {
    pub(super) fn new() -> Self {
        Self { keys: HashSet::new(), random: RandomState::new(), is_full: false }
    }

    /// Notes that objects of a key were stored, removed or invalidated.
    pub(super) fn insert(&mut self, key: &Key) {
        if self.keys.len() < MAX_CHANGED_KEYS {
            self.keys.insert(self.random.hash_one(key));
        } else {
            self.is_full = true;
        }
    }

    fn contains(&self, key: &Key) -> bool {
        self.is_full || self.keys.contains(&self.random.hash_one(key))
    }
}

/// Scans the folder in the background.
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

struct Scan<'a> {
    inner: &'a Arc<Inner>,
    marks: &'a Marks,
    deadline: Instant,
}

impl Scan<'_> {
    fn run(&self) {
        let scan_folders = |first: u8| -> io::Result<()> {
            (first..=u8::MAX).step_by(THREADS.into()).try_for_each(|folder| self.scan(folder))
        };
        thread::scope(|scope| {
            for first in 0..THREADS {
                let scan = move || {
                    if let Err(error) = scan_folders(first) {
                        tracing::warn!(%error, "cannot read a part of the cache folder: it is not used");
                    }
                };
                let started = thread::Builder::new().spawn_scoped(scope, scan);
                if started.is_err() {
                    scan();
                }
            }
        });
        self.inner.lock().changed_keys = None;
        self.marks.release();
        self.inner.scanning.send_replace(false);
    }

    fn scan(&self, folder: u8) -> io::Result<()> {
        let is_closed = || self.inner.is_closed.load(Relaxed);
        let is_live = |id| self.inner.lock().is_live(id);
        self.inner.files.scan(folder, is_closed, |id| self.enter(id), is_live)
    }

    /// Enters an object, if it is whole and nothing newer is known of its key. Returns whether its files stay.
    fn enter(&self, id: u64) -> bool {
        let inner = self.inner;
        let meta = (Instant::now() < self.deadline).then(|| read_meta(inner, id)).flatten();
        let mut state = inner.lock();
        if state.is_live(id) {
            return true;
        }
        let Some((key, mut meta)) = meta else { return false };
        if inner.index.has(&key, id) {
            return true;
        }
        let changed_keys = state.changed_keys.get_or_insert_with(ChangedKeys::new);
        // Judged under the lock: a sweep that begins later finds the entry.
        let mut changes = Changes::default();
        let verdict = self.marks.verdict(&key, &meta.groups, meta.revision);
        let stays = changes.note(id, &mut meta.freshness, verdict);
        let is_entered =
            stays && !changed_keys.contains(&key) && inner.index.insert_newest(&key, meta);
        drop(state);
        inner.expire_heads(&key, &changes);
        is_entered
    }
}

/// Returns the key and the entry of an object, if it is whole.
fn read_meta(inner: &Inner, id: u64) -> Option<(Key, Meta)> {
    let (key, object, len) = head::decode(&inner.files.read_head(id).ok()?)?;
    let is_whole = object.id == id && inner.files.has_content(id, len);
    is_whole.then(|| (key, Meta::of(&object, len)))
}
