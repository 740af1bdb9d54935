//! Tests with files of evicted objects that are not removed yet.

use std::{sync::mpsc, thread};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    super::{super::store::Changes, scan::Scan},
    writes::{object, open_store_with},
    *,
};
use crate::{net::blocking_pool::Job, semantics::cache::Vary};

/// `EIO` and `EMFILE`.
const EIO: i32 = 5;
pub(super) const EMFILE: i32 = 24;

fn key(id: u64) -> Key {
    Key::new("http", "a", &format!("/{id}"), None).unwrap()
}

/// Stores an object with its files.
fn store(inner: &Inner, id: u64) {
    let object = object(id, b"content");
    inner.files.write_content(id, b"content").unwrap();
    inner.files.write_head(id, &head::encode(&key(id), &object, 7).unwrap()).unwrap();
    let state = inner.lock();
    inner.files.commit(id).unwrap();
    inner.index.insert(&key(id), &Meta::of(&object, 7));
    drop(state);
}

/// Opens a store, and stores objects until one is evicted, whose files wait. Returns its id, and the number of the others.
async fn with_evicted_object(
    dir: &TempDir,
    durability: Durability,
) -> (DiskStore, Arc<Marks>, u64, u64) {
    let (disk, marks) = open_store_with(dir, durability);
    disk.loaded().await;
    let (evicted, stored) = evict_object(&disk, 1);
    (disk, marks, evicted, stored)
}

/// Stores objects with ids from `first` on until one is evicted, whose files wait. Returns its id, and the number of the others.
fn evict_object(disk: &DiskStore, first: u64) -> (u64, u64) {
    let inner = &disk.inner;
    inner.removals.hold();
    let mut last = first;
    let evicted = loop {
        store(inner, last);
        if let Some(evicted) = (first..=last).find(|id| !inner.index.has(&key(*id), *id)) {
            break evicted;
        }
        last += 1;
    };
    assert!(inner.files.read_head(evicted).is_ok());
    assert_eq!(inner.index.usage().0, last - first);
    (evicted, last - first)
}

#[tokio::test]
async fn invalidation_of_an_evicted_object_is_recorded_until_its_files_are_removed() {
    for durability in [Durability::Crash, Durability::PowerLoss] {
        let dir = tempfile::tempdir().unwrap();
        let (disk, marks, evicted, _) = with_evicted_object(&dir, durability).await;
        assert!(disk.invalidate(&key(0), Purge::Hard).is_none(), "it was never stored");
        let changes = disk.invalidate(&key(evicted), Purge::Hard).expect("a kill brings it back");
        assert_eq!(changes.len(), 0);
        assert!(disk.apply_to_disk(&key(evicted), changes));
        assert!(disk.inner.files.read_head(evicted).is_err());
        let is_recorded = disk.invalidate(&key(evicted), Purge::Hard).is_some();
        assert_eq!(is_recorded, durability == Durability::PowerLoss, "power loss brings it back");
        let (_, removals) = disk.finish_removals();
        disk.end_removals(removals, &marks.sync_removals());
        assert!(disk.invalidate(&key(evicted), Purge::Hard).is_none(), "nothing brings it back");
    }
}

#[tokio::test]
async fn sweep_ends_after_the_files_of_evicted_objects_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks, _, stored) = with_evicted_object(&dir, Durability::PowerLoss).await;
    let layer = builder().with_store(Arc::new(disk), Clock::new(), marks);
    let cache = layer.handle();
    cache.delete_all(Purge::Hard);
    cache.swept().await;
    assert_eq!((cache.stats().invalidated, files(&dir, "head").len()), (stored, 0));
    assert_eq!(fs::read(dir.path().join("marks")).unwrap()[24..28], [0; 4], "no record is left");
}

#[tokio::test]
async fn evicted_object_is_written_again_after_its_old_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, _, evicted, _) = with_evicted_object(&dir, Durability::Crash).await;
    let inner = &disk.inner;
    // There must be capacity for it.
    inner.index.remove(&key(if evicted == 1 { 2 } else { 1 }), |_| true);
    let mut state = inner.lock();
    let write = inner.write(&mut state, &key(evicted), &object(evicted, b"content")).unwrap();
    drop(state);
    write.run();
    assert!(!inner.is_paused(), "the write has not failed");
    inner.removals.finish();
    let head = inner.files.read_head(evicted).unwrap();
    assert!(head::decode(&head).is_some() && inner.files.has_content(evicted, 7));
    assert!(inner.index.has(&key(evicted), evicted));
}

#[tokio::test]
async fn removed_variant_waits_for_its_removal_once() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, _) = open_store_with(&dir, Durability::Crash);
    disk.loaded().await;
    let (inner, key) = (&disk.inner, key(0));
    inner.removals.hold();
    for (id, language) in [(1, "de"), (2, "en")] {
        let mut object = Object::clone(&object(id, b"content"));
        object.vary = Vary::of(&fields("vary", "accept-language"));
        object.vary_key = object.vary.key(&fields("accept-language", language)).unwrap();
        inner.index.insert(&key, &Meta::of(&object, 7));
    }
    // Its entry is dropped by the one of the other variant, which replaces that of the key.
    inner.discard(&key, |meta| meta.id == 1);
    assert!(!inner.index.has(&key, 1) && inner.index.has(&key, 2));
    assert_eq!(inner.removals.waiting(), 1);
    assert!(inner.removals.may_come_back(&key));
    assert!(inner.removals.finish() && !inner.removals.may_come_back(&key));
}

fn fields(name: &'static str, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
}

#[tokio::test]
async fn write_waits_for_no_removal_of_another_object() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, _, evicted, _) = with_evicted_object(&dir, Durability::PowerLoss).await;
    let (inner, id) = (disk.inner.clone(), evicted + 1_000_000);
    let removing = disk.inner.removals.block();
    let (done, wait) = mpsc::channel();
    let writer = thread::spawn(move || {
        // An overwrite: the files of the key's earlier object wait for their removal.
        let mut state = inner.lock();
        let write = inner.write(&mut state, &key(evicted), &object(id, b"content")).unwrap();
        drop(state);
        write.run();
        done.send(inner.files.read_head(id).is_ok()).unwrap();
    });
    let is_written = wait.recv_timeout(Duration::from_secs(60));
    drop(removing);
    assert_eq!(is_written, Ok(true));
    writer.join().unwrap();
}

#[tokio::test]
async fn scan_ends_after_the_files_of_evicted_objects_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::PowerLoss);
    disk.loaded().await;
    // The scan adds no objects of this process.
    let (evicted, _) = evict_object(&disk, marks.first_id() + 1);
    let inner = &disk.inner;
    Scan { inner, marks: &marks, deadline: Instant::now() + SCAN_TIMEOUT }.run();
    assert!(inner.files.read_head(evicted).is_err(), "the journal has no record of it any more");
    assert!(disk.invalidate(&key(evicted), Purge::Hard).is_none(), "nothing brings it back");
}

#[tokio::test]
async fn failed_synchronization_ends_no_removal() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks, evicted, _) = with_evicted_object(&dir, Durability::PowerLoss).await;
    let sync_error = &disk.inner.files.faults.sync.errno;
    sync_error.store(EIO, Relaxed);
    let (_, removals) = disk.finish_removals();
    disk.end_removals(removals, &marks.sync_removals());
    sync_error.store(0, Relaxed);
    assert!(disk.inner.files.read_head(evicted).is_err(), "removed, but power loss may undo that");
    let changes = disk.invalidate(&key(evicted), Purge::Hard).expect("it is recorded");
    assert!(!disk.apply_to_disk(&key(evicted), changes), "the record is kept");
    // The kernel reports an error once.
    assert!(!marks.sync_removals().is_synced);
}

#[tokio::test]
async fn journal_keeps_invalidations_whose_removals_were_not_synchronized() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::PowerLoss);
    disk.loaded().await;
    let inner = disk.inner.clone();
    (1..=3).for_each(|id| store(&inner, id));
    inner.files.faults.sync.errno.store(EIO, Relaxed);
    let layer = builder().with_store(Arc::new(disk), Clock::new(), marks);
    let cache = layer.handle();
    cache.delete(&key(1), Purge::Hard);
    cache.delete_prefix("http://a/2", Purge::Hard);
    cache.swept().await;
    inner.files.faults.sync.errno.store(0, Relaxed);
    cache.delete(&key(3), Purge::Hard);
    cache.swept().await;
    assert_eq!(files(&dir, "head").len(), 0);
    drop((layer, cache, inner));
    let (files, mut scopes) = (open_files(&dir), Vec::new());
    Journal::open(&files, |record| scopes.push(format!("{:?}", record.scope))).unwrap();
    let expected = ["Key(\"http://a/1\")", "Prefix(\"http://a/2\")", "Key(\"http://a/3\")"];
    assert_eq!(scopes, expected);
}

/// Opens a directory as soon as no store uses it.
fn open_files(dir: &TempDir) -> Arc<Files> {
    let started = Instant::now();
    loop {
        match Files::open(dir.path(), Durability::PowerLoss) {
            Ok(files) => return Arc::new(files),
            Err(error) if started.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => thread::yield_now(),
        }
    }
}

#[tokio::test]
async fn object_is_kept_if_the_process_has_no_more_file_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::Crash);
    disk.loaded().await;
    let inner = &disk.inner;
    let id = marks.first_id() + 1;
    store(inner, id);
    let meta = inner.index.get(&key(id)).unwrap()[0].clone();
    inner.files.faults.open.errno.store(EMFILE, Relaxed);
    assert!(inner.read(&key(id), &meta).is_none());
    // A soft invalidation cannot be written to its head.
    let changes = Changes { removed: Vec::new(), expired: vec![(id, Duration::ZERO)] };
    assert!(!disk.apply_to_disk(&key(id), changes), "its record is kept");
    inner.files.faults.open.errno.store(0, Relaxed);
    assert!(inner.read(&key(id), &meta).is_some());
    // Not the same object, which is in memory now.
    let id = id + 1;
    store(inner, id);
    let meta = inner.index.get(&key(id)).unwrap()[0].clone();
    inner.files.faults.open.errno.store(EIO, Relaxed);
    assert!(inner.read(&key(id), &meta).is_none());
    assert!(!inner.index.has(&key(id), id), "a damaged file is removed");
}

#[tokio::test]
async fn scan_waits_for_file_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::Crash);
    disk.loaded().await;
    let inner = disk.inner.clone();
    store(&inner, 1);
    inner.index.remove(&key(1), |_| true);
    inner.files.faults.open.errno.store(EMFILE, Relaxed);
    let scan = thread::spawn(move || {
        let inner = &disk.inner;
        Scan { inner, marks: &marks, deadline: Instant::now() + SCAN_TIMEOUT }.run();
        (disk, marks)
    });
    let faults = &inner.files.faults;
    let count = faults.open.count.load(Relaxed);
    until(|| faults.open.count.load(Relaxed) > count).await;
    inner.files.faults.open.errno.store(0, Relaxed);
    let (disk, _) = scan.join().unwrap();
    assert!(disk.inner.index.has(&key(1), 1));
}

#[tokio::test]
async fn invalidations_are_recorded_after_a_scan_that_could_not_read_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::Crash);
    disk.loaded().await;
    let inner = &disk.inner;
    store(inner, 1);
    inner.index.remove(&key(1), |_| true);
    assert!(disk.invalidate(&key(1), Purge::Hard).is_none());
    inner.files.faults.open.errno.store(EIO, Relaxed);
    Scan { inner, marks: &marks, deadline: Instant::now() + SCAN_TIMEOUT }.run();
    inner.files.faults.open.errno.store(0, Relaxed);
    assert!(!inner.index.has(&key(1), 1) && inner.files.read_head(1).is_ok());
    assert!(disk.invalidate(&key(1), Purge::Hard).is_some(), "the next process finds it");
}
