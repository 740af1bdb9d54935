//! Files of other backends than a directory.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::*;
use crate::files::{self, Backend, BackendFile, Content, Embedded, Lookup};

fn site() -> Embedded {
    Embedded::from_iter([
        ("index.html", "<h1>home</h1>".as_bytes()),
        ("/docs/index.html", b"docs"),
        ("docs/a.txt", b"0123456789"),
        ("docs/deep/er/b.txt", b"deep"),
        ("docs/a.txt.gz", b"as gzip"),
        (".env", b"secret"),
    ])
}

#[tokio::test]
async fn files_in_the_program_are_served_as_those_of_a_directory() {
    let dir = DirBuilder::backend(site()).precompressed().build();
    assert_eq!(content(get(&dir, "/").await).await, "<h1>home</h1>");
    assert_eq!(content(get(&dir, "/docs/").await).await, "docs");
    assert_eq!(content(get(&dir, "/docs/deep/er/b.txt").await).await, "deep");
    for (target, status) in [
        ("/docs", 308),
        ("/docs/deep", 308),
        ("/do", 404),
        ("/docs/deep/", 404),
        ("/.env", 404),
        ("/docs/a.txt/", 404),
    ] {
        assert_eq!(get(&dir, target).await.status().as_u16(), status, "{target}");
    }
    let file = get(&dir, "/docs/a.txt").await;
    let tag = field(&file, &header::ETAG).to_owned();
    assert!(!file.headers().contains_key(header::LAST_MODIFIED));
    let same = get_with(&dir, "/docs/a.txt", &[(header::IF_NONE_MATCH, &tag)]).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    let part = [(header::RANGE, "bytes=2-4"), (header::IF_RANGE, tag.as_str())];
    assert_eq!(content(get_with(&dir, "/docs/a.txt", &part).await).await, "234");
    let coded = get_with(&dir, "/docs/a.txt", &[(header::ACCEPT_ENCODING, "gzip")]).await;
    assert_eq!(field(&coded, &header::CONTENT_ENCODING), "gzip");
    // Other content has another tag.
    let other = files::backend(Embedded::from_iter([("docs/a.txt", "0123456780")]));
    assert_ne!(field(&get(&other, "/docs/a.txt").await, &header::ETAG), tag);
}

#[tokio::test]
async fn embedded_directory_is_listed_once_for_each_name() {
    let dir = DirBuilder::backend(site()).listing().index("none").build();
    let json = get_with(&dir, "/docs/", &[(header::ACCEPT, "application/json")]).await;
    let json = String::from_utf8(content(json).await.to_vec()).unwrap();
    let names: Vec<&str> =
        json.split("\"name\":\"").skip(1).map(|r| r.split('"').next().unwrap()).collect();
    assert_eq!(names, ["deep", "a.txt", "a.txt.gz", "index.html"]);
    let root = String::from_utf8(content(get(&dir, "/").await).await.to_vec()).unwrap();
    assert!(root.contains("./docs/") && !root.contains(".env"));
}

/// A backend without files, which counts lookups.
#[derive(Debug, Clone, Default)]
struct Empty(Arc<AtomicUsize>);

impl Backend for Empty {
    fn lookup(&self, _: &str) -> io::Result<Lookup> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Lookup::Missing)
    }
}

#[tokio::test]
async fn missing_file_is_not_looked_up_each_time() {
    for (with_page, lookups) in [(false, 1), (true, 2)] {
        let empty = Empty::default();
        let mut builder = DirBuilder::backend(empty.clone());
        if with_page {
            builder = builder.not_found_page("404.html"); // which is missing too
        }
        let dir = builder.build();
        for target in ["/none"; 10].iter().chain(&["/.env"; 10]) {
            let response = get(&dir, target).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert_eq!(content(response).await, "404 Not Found\n");
        }
        assert_eq!(empty.0.load(Ordering::SeqCst), lookups);
    }
}

/// A disk on which lookups of some files hang until they are released.
#[derive(Debug, Default)]
struct Slow {
    open: Mutex<bool>,
    opened: Condvar,
    lookups: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Disk(Arc<Slow>);

impl Backend for Disk {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        self.0.lookups.fetch_add(1, Ordering::SeqCst);
        match path {
            "broken" => return Err(io::Error::other("a bad sector")),
            "fast" => {}
            _ => drop(self.0.opened.wait_while(self.0.open.lock().unwrap(), |open| !*open)),
        }
        let content = Content::Bytes(path.to_owned().into());
        Ok(Lookup::File(BackendFile { content, modified: None, tag: "\"no tag\"".to_owned() }))
    }
}

#[tokio::test(start_paused = true)]
async fn slow_disk_delays_only_requests_that_need_it() {
    // A runtime of one thread, whose clock does not expire the look-up of `/fast`.
    let disk = Disk(Arc::default());
    let dir = files::backend(disk.clone());
    let slow: Vec<_> = (0..10)
        .map(|i| {
            let dir = dir.clone();
            tokio::spawn(async move { content(get(&dir, &format!("/slow{i}")).await).await })
        })
        .collect();
    while disk.0.lookups.load(Ordering::SeqCst) < 10 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        let fast = get(&dir, "/fast").await;
        assert!(!fast.headers().contains_key(header::ETAG), "an invalid tag is left out");
        assert_eq!(content(fast).await, "fast");
    }
    assert!(slow.iter().all(|task| !task.is_finished()));
    let error = dir.clone().oneshot(request(Method::GET, "/broken")).await.unwrap_err();
    assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Internal);
    *disk.0.open.lock().unwrap() = true;
    disk.0.opened.notify_all();
    for (i, task) in slow.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("slow{i}"));
    }
    assert_eq!(disk.0.lookups.load(Ordering::SeqCst), 12, "cached paths are not looked up again");
}

/// A backend of `/a`, whose lookups can be held.
#[derive(Debug, Clone, Default)]
struct HeldBackend {
    text: Arc<Mutex<String>>,
    /// Lookups that have read the file and are held before they return.
    held: Arc<(Mutex<Option<usize>>, Condvar)>,
}

impl HeldBackend {
    fn set(&self, text: &str) {
        text.clone_into(&mut self.text.lock().unwrap());
    }

    fn release(&self) {
        *self.held.0.lock().unwrap() = None;
        self.held.1.notify_all();
    }

    /// Waits until this many lookups are held.
    async fn wait_until_held(&self, lookups: usize) {
        while *self.held.0.lock().unwrap() != Some(lookups) {
            tokio::task::yield_now().await;
        }
    }
}

impl Backend for HeldBackend {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        let found = self.try_lookup_cached(path).unwrap();
        let mut held = self.held.0.lock().unwrap();
        if let Some(n) = &mut *held {
            *n += 1;
        }
        drop(self.held.1.wait_while(held, |held| held.is_some()).unwrap());
        Ok(found)
    }

    fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        if path != "a" {
            return Some(Lookup::Missing);
        }
        let text = self.text.lock().unwrap().clone();
        let tag = text.len().to_string();
        Some(Lookup::File(BackendFile {
            content: Content::Bytes(text.into()),
            modified: None,
            tag,
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn entry_that_outgrows_the_cache_is_not_served_in_its_old_state() {
    let long = "new".repeat(10);
    for inline in [false, true] {
        let backend = HeldBackend::default();
        backend.set("old");
        let dir =
            DirBuilder::backend(backend.clone()).cache_bytes(20).inline_lookups(inline).build();
        assert_eq!(content(get(&dir, "/a").await).await, "old");
        backend.set(&long);
        for millis in [1100, 800] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            assert_eq!(content(get(&dir, "/a").await).await, long, "{inline} {millis}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn late_caller_gets_result_of_new_lookup() {
    let backend = HeldBackend::default();
    *backend.held.0.lock().unwrap() = Some(0);
    backend.set("old");
    let dir = DirBuilder::backend(backend.clone()).inline_lookups(false).build();
    let request_a = || {
        let dir = dir.clone();
        tokio::spawn(async move { content(get(&dir, "/a").await).await })
    };
    let (first, second) = (request_a(), request_a());
    backend.wait_until_held(1).await;
    backend.set("new");
    tokio::time::advance(Duration::from_secs(1)).await;
    let third = request_a();
    backend.wait_until_held(2).await;
    backend.release();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("old".into(), "old".into()));
    assert_eq!(third.await.unwrap(), "new");
    assert_eq!(content(get(&dir, "/a").await).await, "new", "the later lookup is cached");
}
