//! Tests of the scan after a start.

use http::HeaderMap;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{
    super::scan::{MAX_CHANGED_KEYS, Scan},
    writes::{object, open_store},
    *,
};
use crate::cache::{hit_fields::HitFields, sent_forms::SentForms};

/// The first directory of each thread of the scan. A pipe without a writer in each of them blocks the threads.
pub(super) const FIRST: [&str; 4] = ["00", "01", "02", "03"];

pub(super) fn pipe(dir: &TempDir, first: &str) -> PathBuf {
    dir.path().join(first).join(format!("00000000000000{first}.head"))
}

/// Stores a path in a directory that is not one of [`FIRST`].
async fn store(layer: &CacheLayer, dir: &TempDir, path: &str) {
    loop {
        let before = layer.handle().stats().keys;
        source(layer, path).await;
        written(layer, before + 1).await;
        let is_in_first =
            |path: &PathBuf| FIRST.iter().any(|first| path.parent().unwrap().ends_with(first));
        if !files(dir, "head").iter().any(is_in_first) {
            return;
        }
        layer.handle().delete(&Key::new("http", "a", path, None).unwrap(), Purge::Hard);
    }
}

#[tokio::test]
async fn requests_are_served_and_invalidations_count_during_the_scan() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    let paths = ["/1/10", "/2/20", "/3/20000", "/4/40", "/5/50"];
    for path in paths {
        store(&layer, &dir, path).await;
    }
    drop(layer);
    for first in FIRST {
        mknodat(CWD, pipe(&dir, first), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let layer = open_without_scan(&dir, builder);
    let cache = layer.handle();
    assert_eq!(source(&layer, paths[0]).await, "origin");
    cache.delete(&Key::new("http", "a", paths[1], None).unwrap(), Purge::Hard);
    cache.delete_prefix("http://a/3/", Purge::Hard);
    cache.delete_prefix("http://a/5/", Purge::Soft);
    // The sweep ends before the scan adds these objects to the index.
    cache.swept().await;
    assert_eq!(cache.stats().invalidated, 0);
    let pipes = FIRST.map(|first| pipe(&dir, first));
    let opened = tokio::task::spawn_blocking(move || {
        pipes.each_ref().map(|path| fs::OpenOptions::new().write(true).open(path).unwrap())
    });
    drop(opened.await.unwrap());
    cache.loaded().await;
    let after = ["cache", "origin", "origin", "cache", "origin"];
    for (path, from) in paths.into_iter().zip(after) {
        assert_eq!(source(&layer, path).await, from, "{path}");
    }
    written(&layer, 5).await;
    until(|| (files(&dir, "head").len(), files(&dir, "content").len()) == (5, 5)).await;
}

#[tokio::test]
async fn directory_without_durability_is_emptied_after_a_restart_of_the_system() {
    for (written_with, boot, from) in [
        (Durability::Crash, None, "cache"),
        (Durability::Crash, Some("another boot"), "origin"),
        (Durability::PowerLoss, None, "cache"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let layer = open(&dir, || builder().durability(written_with)).await;
        source(&layer, "/20000").await;
        written(&layer, 1).await;
        drop(layer);
        assert_eq!(dir.path().join("boot").exists(), written_with == Durability::Crash);
        if let Some(boot) = boot {
            fs::write(dir.path().join("boot"), boot).unwrap();
        }
        let layer = open(&dir, builder).await;
        assert_eq!(source(&layer, "/20000").await, from, "{written_with:?} {boot:?}");
        assert!(!dir.path().join("boot").exists());
    }
}

#[tokio::test]
async fn object_from_the_future_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    source(&layer, "/5").await;
    written(&layer, 1).await;
    drop(layer);
    let head = files(&dir, "head").pop().unwrap();
    let (key, mut object, len) = head::decode(&fs::read(&head).unwrap()).unwrap();
    let mut words = object.freshness.to_words();
    words[0] += 3_600_000_000_000;
    object.freshness = crate::semantics::cache::Freshness::from_words(words);
    fs::write(&head, head::encode(&key, &object, len).unwrap()).unwrap();
    let layer = open(&dir, builder).await;
    assert_eq!(layer.handle().stats().keys, 1);
    assert_eq!(source(&layer, "/5").await, "origin", "the clock was set back by an hour");
    assert_eq!(source(&layer, "/5").await, "cache");
}

#[tokio::test]
async fn scan_removes_objects_of_earlier_processes_that_it_has_not_reached_in_time() {
    for (time, is_kept) in [(SCAN_TIMEOUT, true), (Duration::ZERO, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, marks) = &open_store(&dir);
        store.loaded().await;
        let inner = &store.inner;
        let own = marks.first_id() + 1;
        for id in [1, own] {
            let key = Key::new("http", "a", &format!("/{id}"), None).unwrap();
            inner.files.write_content(id, b"content").unwrap();
            let head = head::encode(&key, &object(id, b"content"), 7).unwrap();
            inner.files.write_head(id, &head).unwrap();
            inner.files.commit(id).unwrap();
        }
        Scan { inner, marks, deadline: Instant::now() + time }.run();
        assert_eq!(files(&dir, "head").len(), 1 + usize::from(is_kept), "{time:?}");
        assert_eq!(store.usage().0, u64::from(is_kept), "{time:?}");
    }
}

#[test]
fn too_many_changed_keys_stand_for_all_keys() {
    let mut changed_keys = ChangedKeys::new();
    let key = |path| Key::new("http", "a", path, None).unwrap();
    changed_keys.insert(&key("/a"));
    assert!(changed_keys.contains(&key("/a")) && !changed_keys.contains(&key("/b")));
    changed_keys.keys.extend(0..MAX_CHANGED_KEYS as u64);
    changed_keys.insert(&key("/c"));
    assert!(changed_keys.contains(&key("/b")));
}

/// The default number of objects of the test below. `VESTIBULE_CACHE_OBJECTS` sets another one; a million takes minutes.
const OBJECTS: u64 = 2000;

/// Returns the resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes every fourth object, from `first + 1` to `n`, as an earlier process would have done.
fn write_objects(files: &Files, first: u64, n: u64) {
    let headers = [("cache-control", "max-age=100000"), ("content-type", "text/html")];
    let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let headers: HeaderMap = headers.into_iter().collect();
    let (now, vary) = (Clock::new().now(), crate::semantics::cache::Vary::of(&HeaderMap::new()));
    for id in (first + 1..=n).step_by(4) {
        let key = Key::new("http", "site.example", &format!("/objects/{id}"), None).unwrap();
        let now = u64::try_from(now.as_nanos()).unwrap();
        let object = Object {
            id,
            revision: id,
            status: http::StatusCode::OK,
            headers: headers.clone(),
            freshness: crate::semantics::cache::Freshness::from_words([now, 0, 1 << 60, 0, 0, 4]),
            vary_key: vary.key(&headers).unwrap(),
            vary: vary.clone(),
            groups: Arc::from([]),
            cost: Duration::ZERO,
            content: Content::Memory(Bytes::from_static(b"content")),
            hit_fields: HitFields::default(),
            sent_forms: SentForms::default(),
        };
        files.write_content(id, b"content").unwrap();
        files.write_head(id, &head::encode(&key, &object, 7).unwrap()).unwrap();
        files.commit(id).unwrap();
    }
}

#[tokio::test]
async fn scan_adds_all_objects_of_an_earlier_process() {
    let n = std::env::var("VESTIBULE_CACHE_OBJECTS").ok().and_then(|n| n.parse().ok());
    let (n, dir) = (n.unwrap_or(OBJECTS), tempfile::tempdir().unwrap());
    let earlier = Arc::new(Files::open(dir.path(), Durability::Crash).unwrap());
    drop(Journal::open(&earlier, |_| ()).unwrap());
    thread::scope(|scope| {
        let earlier = &earlier;
        (0..4).for_each(|first| drop(scope.spawn(move || write_objects(earlier, first, n))));
    });
    drop(earlier);
    let (before, started) = (resident_kib(), Instant::now());
    let builder = || builder().durability(Durability::Crash).disk_capacity(1 << 40);
    let layer = open_without_scan(&dir, || builder().max_disk_objects(2 * n));
    let opened = started.elapsed();
    layer.handle().loaded().await;
    let (scanned, after) = (started.elapsed(), resident_kib());
    println!("{n} objects: open {opened:?}, scan {scanned:?}");
    println!("{} bytes of memory for each", (after.saturating_sub(before) << 10) / n);
    assert_eq!(layer.handle().stats().keys, n);
    let site = layer.layer(service_fn(|_: Request| async { Err::<Response, _>("not stored") }));
    let ask = async |id: u64| {
        let request = Request::get(format!("http://site.example/objects/{id}"));
        let response = site.clone().oneshot(request.body(Body::empty()).unwrap()).await;
        let Ok(response) = response else { return false };
        let body = response.into_body().collect().await.unwrap().to_bytes();
        body == "content"
    };
    for id in [1, n / 2, n] {
        assert!(ask(id).await, "{id}");
    }
    let cache = layer.handle();
    let sweep = async |what: &str, kept: u64| {
        let (mut slowest, began) = (Duration::ZERO, Instant::now());
        if what.is_empty() {
            cache.delete_all(Purge::Hard);
        } else {
            cache.delete_prefix(what, Purge::Hard);
        }
        let marked = began.elapsed();
        let mut swept = std::pin::pin!(cache.swept());
        loop {
            tokio::select! {
                biased;
                () = &mut swept => break,
                () = tokio::task::yield_now() => {}
            }
            let asked = Instant::now();
            assert_eq!(ask(2).await, kept > 0, "it is served, or forwarded, at once");
            slowest = slowest.max(asked.elapsed());
        }
        println!(
            "{what:?}: marked in {marked:?}, swept in {:?}, slowest request {slowest:?}",
            began.elapsed()
        );
        assert_eq!((files(&dir, "head").len() as u64, cache.stats().invalidated), (kept, n - kept));
    };
    let kept = (1..=n).filter(|id| !id.to_string().starts_with('1')).count() as u64;
    sweep("http://site.example/objects/1", kept).await;
    sweep("", 0).await;
}
