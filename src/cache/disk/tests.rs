//! Tests of a store in a real directory.

mod full_disk;
mod kill;
mod marks;
mod reads;
mod removals;
mod scan;
mod spool;
mod variants;
mod writes;

use std::{
    fs,
    io::BufRead,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    Body, BoxError, Request, Response,
    cache::{CacheBuilder, CacheLayer, Purge},
};

/// The content of a path, whose last segment is the length. It consists of the path, so that no other path has it.
fn content(path: &str) -> String {
    let len: usize = path.rsplit('/').next().unwrap().parse().unwrap();
    format!("{path};").repeat(len / (path.len() + 1) + 1)[..len].to_owned()
}

fn builder() -> CacheBuilder {
    CacheLayer::builder().max_object(10_000)
}

/// Opens a directory, as soon as the store of an earlier layer has unlocked it, and waits for the scan.
async fn open(dir: &TempDir, builder: impl Fn() -> CacheBuilder) -> CacheLayer {
    let layer = open_without_scan(dir, builder);
    layer.handle().loaded().await;
    layer
}

/// Opens a directory, as soon as the store of an earlier layer has unlocked it, without waiting for the scan.
fn open_without_scan(dir: &TempDir, builder: impl Fn() -> CacheBuilder) -> CacheLayer {
    let started = Instant::now();
    loop {
        match builder().open(dir.path()) {
            Ok(layer) => return layer,
            Err(error) if started.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => thread::yield_now(),
        }
    }
}

/// Waits until `is_true` returns `true`.
async fn until(is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it becomes true");
}

/// Requests a path. Returns the response, and whether it came from the cache or from the origin.
async fn get(layer: &CacheLayer, path: &str, fields: &[(&str, &str)]) -> (Response, &'static str) {
    let requests = Arc::new(AtomicU64::new(0));
    let count = requests.clone();
    let site = layer.layer(service_fn(move |request: Request| {
        count.fetch_add(1, Relaxed);
        async move {
            let response = Response::builder()
                .header("cache-control", "max-age=1000")
                .header("vary", "accept-language")
                .header("surrogate-key", "all");
            Ok::<_, BoxError>(response.body(Body::from(content(request.uri().path())))?)
        }
    }));
    let mut request = Request::get(format!("http://a{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    (response, if requests.load(Relaxed) == 0 { "cache" } else { "origin" })
}

/// Requests a path, checks the content, and returns where it came from.
async fn source(layer: &CacheLayer, path: &str) -> &'static str {
    let (response, from) = get(layer, path, &[]).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body == content(path).as_bytes(), "{path} from {from}");
    from
}

/// Waits until `keys` keys are on disk.
async fn written(layer: &CacheLayer, keys: u64) {
    until(|| layer.handle().stats().keys == keys).await;
}

/// The files with this extension in a directory.
fn files(dir: &TempDir, extension: &str) -> Vec<PathBuf> {
    let dirs = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let dirs = dirs.filter(|path| path.is_dir());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|e| e.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

#[tokio::test]
async fn objects_are_found_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    for path in ["/5", "/10000", "/100000", "/0"] {
        assert_eq!(source(&layer, path).await, "origin");
    }
    let (_, from) = get(&layer, "/5", &[("accept-language", "de")]).await;
    assert_eq!(from, "origin", "another variant");
    written(&layer, 4).await;
    until(|| files(&dir, "head").len() == 5).await;
    drop(layer);
    let layer = open(&dir, builder).await;
    for _ in 0..2 {
        for path in ["/5", "/10000", "/100000", "/0"] {
            assert_eq!(source(&layer, path).await, "cache", "{path}");
        }
        let (response, from) = get(&layer, "/5", &[("accept-language", "de")]).await;
        assert_eq!(
            (from, &response.headers()["surrogate-key"]),
            ("cache", &"all".parse().unwrap())
        );
    }
}

#[tokio::test]
async fn large_object_is_sent_from_its_file_also_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    source(&layer, "/100000").await;
    written(&layer, 1).await;
    let (whole, from) = get(&layer, "/100000", &[]).await;
    assert_eq!((from, whole.body().as_file().map(FileSlice::len)), ("cache", Some(100_000)));
    let (part, _) = get(&layer, "/100000", &[("range", "bytes=99990-99994")]).await;
    assert_eq!((part.status().as_u16(), part.body().as_file().map(FileSlice::len)), (206, Some(5)));
    let part = part.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(part, content("/100000").as_bytes()[99_990..99_995]);
    drop(whole);
    // The file stays open, so a further hit looks for none.
    let path = files(&dir, "content").pop().unwrap();
    fs::rename(&path, path.with_extension("moved")).unwrap();
    assert_eq!(source(&layer, "/100000").await, "cache");
    fs::rename(path.with_extension("moved"), path).unwrap();
    assert_eq!(open_files(&dir, "content"), 1);
    layer.handle().delete(&Key::new("http", "a", "/100000", None).unwrap(), Purge::Hard);
    // A thread of the disk may still be at its last job.
    let closed = async {
        while open_files(&dir, "content") > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
    assert_eq!(source(&layer, "/100000").await, "origin");
}

/// Returns the number of files with this extension below a directory that this process has open.
fn open_files(dir: &TempDir, extension: &str) -> usize {
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    let is_content = |path: &PathBuf| path.to_string_lossy().ends_with(extension);
    links.filter(|path| path.starts_with(dir.path()) && is_content(path)).count()
}

#[tokio::test]
async fn large_object_replaces_a_small_one_that_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    let len = Arc::new(AtomicU64::new(100));
    let current = len.clone();
    let site = layer.layer(service_fn(move |_: Request| {
        let content = vec![b'x'; usize::try_from(current.load(Relaxed)).unwrap()];
        let response = Response::builder().header("cache-control", "max-age=1000");
        std::future::ready(response.body(Body::from(content)).map_err(BoxError::from))
    }));
    let ask = async || {
        let request = Request::get("http://a/grows").body(Body::empty()).unwrap();
        let response = site.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes().len()
    };
    assert_eq!(ask().await, 100);
    written(&layer, 1).await;
    len.store(50_000, Relaxed);
    assert_eq!(ask().await, 100);
    // Softly, so that the small one stays until it is replaced.
    layer.handle().delete_all(Purge::Soft);
    assert_eq!(ask().await, 50_000);
    len.store(7, Relaxed);
    assert_eq!((ask().await, ask().await), (50_000, 50_000), "it is stored");
}

#[tokio::test]
async fn damaged_object_is_never_served_and_is_removed() {
    type Damage = fn(&PathBuf);
    let damages: [(&str, Damage); 6] = [
        ("content", |path| fs::write(path, "short").unwrap()),
        ("content", |path| fs::remove_file(path).unwrap()),
        ("head", |path| fs::write(path, "").unwrap()),
        ("head", |path| {
            let mut head = fs::read(path).unwrap();
            *head.last_mut().unwrap() ^= 1;
            fs::write(path, head).unwrap();
        }),
        ("head", |path| fs::rename(path, path.with_extension("new")).unwrap()),
        ("head", |path| {
            // The name that a head of another object would have.
            let name = path.file_name().unwrap().to_str().unwrap();
            let id = u64::from_str_radix(name.split('.').next().unwrap(), 16).unwrap();
            fs::rename(path, path.with_file_name(format!("{:016x}.head", id ^ 0x100))).unwrap();
        }),
    ];
    for (i, (extension, damage)) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let layer = open(&dir, builder).await;
        source(&layer, "/100000").await;
        written(&layer, 1).await;
        damage(&files(&dir, extension)[0]);
        if i < 4 {
            // An open store detects the damage, too.
            assert_eq!(source(&layer, "/100000").await, "origin", "{i}");
            written(&layer, 1).await;
            damage(&files(&dir, extension)[0]);
        }
        drop(layer);
        let layer = open(&dir, builder).await;
        let count = |e| files(&dir, e).len();
        assert_eq!((count("head"), count("content"), count("new")), (0, 0, 0), "{i}");
        assert_eq!(source(&layer, "/100000").await, "origin", "{i}");
    }
}

#[tokio::test]
async fn invalidation_persists_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    let paths = ["/1/50", "/2/50", "/3/20000"];
    for path in paths {
        source(&layer, path).await;
    }
    written(&layer, 3).await;
    let cache = layer.handle();
    cache.delete(&Key::new("http", "a", "/1/50", None).unwrap(), Purge::Hard);
    cache.delete_prefix("http://a/3/", Purge::Hard);
    cache.swept().await;
    assert_eq!(cache.stats().invalidated, 1);
    assert_eq!((files(&dir, "head").len(), files(&dir, "content").len()), (1, 1));
    drop((layer, cache));
    let layer = open(&dir, builder).await;
    for (path, from) in paths.into_iter().zip(["origin", "cache", "origin"]) {
        assert_eq!(source(&layer, path).await, from, "{path}");
    }
    written(&layer, 3).await;
    let cache = layer.handle();
    cache.invalidate("all", Purge::Soft);
    cache.swept().await;
    assert_eq!(cache.stats().invalidated, 3);
    drop((layer, cache));
    let layer = open(&dir, builder).await;
    let cache = layer.handle();
    for path in paths {
        assert_eq!(source(&layer, path).await, "origin", "{path} is stale");
    }
    cache.delete_all(Purge::Hard);
    cache.swept().await;
    assert!(cache.stats().invalidated >= 3);
    assert_eq!(files(&dir, "head").len(), 0);
}

#[tokio::test]
async fn directory_keeps_to_its_bounds_in_bytes_and_objects() {
    for (builder, max) in [
        ((|| builder().disk_capacity(400_000).max_disk_object(20_000)) as fn() -> CacheBuilder, 16),
        (|| builder().max_disk_objects(20).disk_capacity(10 << 20).max_disk_object(20_000), 20),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let layer = open(&dir, builder).await;
        for i in 0..100 {
            source(&layer, &format!("/{i}/20000")).await;
        }
        assert_eq!(source(&layer, "/20001").await, "origin");
        until(|| {
            let heads = files(&dir, "head").len();
            heads <= max && files(&dir, "content").len() == heads
        })
        .await;
        assert!(files(&dir, "head").len() >= max / 2);
        for i in 0..100 {
            source(&layer, &format!("/{i}/20000")).await;
        }
        assert!(open_files(&dir, "content") > 0);
        let closed = async {
            while open_files(&dir, "content (deleted)") > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
        assert_eq!(source(&layer, "/20001").await, "origin", "too large for the store");
    }
}

#[tokio::test]
async fn store_touches_no_other_directory_of_the_same_name() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("cache"), dir.path().join("moved"));
    let open = async || {
        let layer = builder().open(&path).unwrap();
        layer.handle().loaded().await;
        layer
    };
    let first = open().await;
    assert_eq!(source(&first, "/1/20000").await, "origin");
    written(&first, 1).await;
    fs::rename(&path, &moved).unwrap();
    let second = open().await;
    // Both are the first session of their directory, so the ids of their objects are the same.
    assert_eq!(source(&second, "/2/20000").await, "origin");
    written(&second, 1).await;
    assert_eq!(source(&first, "/3/20000").await, "origin");
    written(&first, 2).await;
    assert_eq!(source(&second, "/4/20000").await, "origin");
    written(&second, 2).await;
    first.handle().delete_all(Purge::Hard);
    first.handle().swept().await;
    drop(second);
    let started = Instant::now();
    let second = loop {
        match builder().open(&path) {
            Ok(layer) => break layer,
            Err(error) if started.elapsed() > Duration::from_secs(60) => panic!("{error}"),
            Err(_) => thread::yield_now(),
        }
    };
    second.handle().loaded().await;
    for path in ["/2/20000", "/4/20000"] {
        assert_eq!(source(&second, path).await, "cache", "{path}");
    }
    assert_eq!(source(&second, "/3/20000").await, "origin");
}

#[tokio::test]
async fn object_is_written_to_a_subdirectory_that_was_removed() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    (0..=u8::MAX).for_each(|i| fs::remove_dir(dir.path().join(format!("{i:02x}"))).unwrap());
    for path in ["/10", "/20000"] {
        assert_eq!(source(&layer, path).await, "origin");
    }
    written(&layer, 2).await;
    drop(layer);
    let layer = open(&dir, builder).await;
    for path in ["/10", "/20000"] {
        assert_eq!(source(&layer, path).await, "cache", "{path}");
    }
}

#[tokio::test]
async fn directory_belongs_to_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    let error = builder().open(dir.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(error.to_string().ends_with(": each needs a directory of its own"), "{error}");
    drop(layer);
    drop(open(&dir, builder).await);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(
        builder()
            .open(&file)
            .unwrap_err()
            .to_string()
            .starts_with("cannot create the cache directory ")
    );
}
