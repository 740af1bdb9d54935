//! Tests of writes: their bounds, and a system that can start no thread.

use http::HeaderMap;

use super::{super::write::MAX_WRITES, *};
use crate::{
    Budget,
    cache::{hit_fields::HitFields, sent_forms::SentForms},
    net::blocking_pool::{BlockingPool, Job},
    semantics::cache::{Freshness, Vary},
};

pub(super) fn object(id: u64, content: &'static [u8]) -> Arc<Object> {
    let vary = Vary::of(&HeaderMap::new());
    Arc::new(Object {
        id,
        revision: id,
        status: http::StatusCode::OK,
        headers: HeaderMap::new(),
        freshness: Freshness::from_words([0, 0, 1 << 60, 0, 0, 4]),
        vary_key: vary.key(&HeaderMap::new()).unwrap(),
        vary,
        groups: Arc::from([]),
        cost: Duration::ZERO,
        content: Content::Memory(Bytes::from_static(content)),
        hit_fields: HitFields::default(),
        sent_forms: SentForms::default(),
    })
}

/// Opens a store without a layer.
pub(super) fn open_store(dir: &TempDir) -> (DiskStore, Arc<Marks>) {
    open_store_with(dir, Durability::Crash)
}

pub(super) fn open_store_with(dir: &TempDir, durability: Durability) -> (DiskStore, Arc<Marks>) {
    let bounds = DiskBounds {
        capacity: 1 << 20,
        max_objects: 100,
        max_object: 100_000,
        max_variants: 4,
        durability,
    };
    let clock = Clock::new();
    let memory = MemoryStore::new(1 << 20, 10_000, 4, clock);
    DiskStore::open(dir.path(), bounds, memory, clock, Budget::default()).unwrap()
}

#[test]
fn failed_write_does_not_wait_for_the_lock_of_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (DiskStore { inner }, _) = &open_store(&dir);
    let key = Key::new("http", "a", "/", None).unwrap();
    let pool = BlockingPool::without_threads();
    let mut state = inner.lock();
    let write = inner.write(&mut state, &key, &object(1, b"content")).unwrap();
    assert_eq!(state.writing.len(), 1);
    // Another thread of the process may submit a job while it has this lock, and fails this one, too.
    pool.run(write);
    drop(state);
    assert!(inner.lock().writing.is_empty(), "the write is not waited for");
    assert!(inner.is_paused() && inner.writing_len.load(Relaxed) == 0);
}

#[test]
fn waiting_writes_are_bounded_in_number_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (DiskStore { inner }, _) = &open_store(&dir);
    let key = Key::new("http", "a", "/", None).unwrap();
    let mut state = inner.lock();
    let mut write = |id| inner.write(&mut state, &key, &object(id, b"content"));
    let mut writes: Vec<_> = (0..MAX_WRITES as u64 - 1).map(|id| write(id).unwrap()).collect();
    let len = inner.writing_len.load(Relaxed);
    inner.writing_len.store(MAX_WRITING - 6, Relaxed);
    assert!(write(10_000).is_none(), "too many bytes");
    inner.writing_len.store(len, Relaxed);
    writes.push(write(10_001).unwrap());
    assert!(write(10_002).is_none(), "too many objects");
    drop(state);
    drop(writes);
    assert!(inner.lock().writing.is_empty() && inner.writing_len.load(Relaxed) == 0);
}

#[tokio::test]
async fn updated_object_is_removed_from_disk_if_too_many_heads_wait() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store(&dir);
    disk.loaded().await;
    let (inner, id) = (&disk.inner, marks.first_id() + 1);
    let (key, object) = (Key::new("http", "a", "/", None).unwrap(), object(id, b"content"));
    let write = inner.write(&mut inner.lock(), &key, &object).unwrap();
    write.run();
    assert!(inner.index.has(&key, id));
    inner.waiting_heads.store(MAX_WRITES, Relaxed);
    disk.insert(&key, &object);
    assert!(!inner.index.has(&key, id));
    assert!(inner.memory.find(&key, id).is_some(), "it is in memory only");
    inner.waiting_heads.store(0, Relaxed);
    until(|| files(&dir, "head").is_empty()).await;
}
