//! Tests with a process that is killed before its invalidations are applied to the files.

use std::sync::Barrier;

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Signal, getpid, kill_process},
};

use super::{
    super::{super::pool, journal::JOURNAL_LEN},
    scan::{FIRST, pipe},
    *,
};

const DIR: &str = "VESTIBULE_CACHE_MARKS_DIR";

const PATHS: [&str; 7] = ["/p/1/50", "/p/2/20000", "/q/50", "/k/50", "/k/20000", "/s/50", "/l/50"];

/// Blocks all threads of the pool until `wait` is called on the result.
fn block_pool() -> Arc<Barrier> {
    let blocked = Arc::new(Barrier::new(33));
    for _ in 0..32 {
        let blocked = blocked.clone();
        pool::run(move || {
            blocked.wait();
            blocked.wait();
        });
    }
    blocked.wait();
    blocked
}

fn key(path: &str) -> Key {
    Key::new("http", "a", path, None).unwrap()
}

/// The child process of the tests below: invalidates, and kills itself before files are removed.
#[tokio::test]
async fn child_invalidates_and_kills_itself() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let layer = builder().durability(Durability::Crash).open(dir).unwrap();
    let cache = layer.handle();
    cache.loaded().await;
    let _blocked = block_pool();
    match &*std::env::var("VESTIBULE_CACHE_INVALIDATES").unwrap() {
        "some" => {
            cache.delete_prefix("http://a/p/", Purge::Hard);
            cache.delete(&key("/k/50"), Purge::Hard);
            cache.delete(&key("/k/20000"), Purge::Soft);
            cache.delete_prefix("http://a/s/", Purge::Soft);
        }
        "group" => cache.invalidate("all", Purge::Soft),
        "many" => {
            for i in 0..JOURNAL_LEN / 100 {
                cache.delete(&key("/k/50"), Purge::Hard);
                cache.delete_prefix(&format!("http://b/{}{i}", "x".repeat(60)), Purge::Soft);
                if i < 200 {
                    cache.invalidate(&format!("{}{i}", "g".repeat(4000)), Purge::Hard);
                }
            }
        }
        other => panic!("{other}"),
    }
    kill_process(getpid(), Signal::KILL).unwrap();
}

/// Stores all paths, and invalidates them in a process that is killed before it removes any file.
async fn invalidate_and_kill(dir: &TempDir, what: &str) {
    let layer = open(dir, || builder().durability(Durability::Crash)).await;
    for path in PATHS {
        source(&layer, path).await;
    }
    written(&layer, PATHS.len() as u64).await;
    drop(layer);
    wait_free(dir);
    let name = "cache::disk::tests::marks::child_invalidates_and_kills_itself";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", name]).env(DIR, dir.path()).env("VESTIBULE_CACHE_INVALIDATES", what);
    let status = child.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    assert_eq!(files(dir, "head").len(), PATHS.len(), "none was removed");
}

/// Waits until no process uses the directory.
fn wait_free(dir: &TempDir) {
    let started = Instant::now();
    while Files::open(dir.path(), Durability::Crash).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
        thread::yield_now();
    }
}

/// Asserts where each path comes from after a restart, and after another one.
async fn assert_sources(dir: &TempDir, from_cache: &[&str]) {
    for round in 0..2 {
        let layer = open(dir, || builder().durability(Durability::Crash)).await;
        for path in PATHS {
            let is_stored = from_cache.contains(&path) || round == 1;
            let want = if is_stored { "cache" } else { "origin" };
            assert_eq!(source(&layer, path).await, want, "{path} in round {round}");
        }
        written(&layer, PATHS.len() as u64).await;
        let cache = layer.handle();
        cache.swept().await;
        let heads = async {
            while files(dir, "head").len() != PATHS.len() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heads).await.unwrap();
    }
}

#[tokio::test]
async fn invalidation_survives_a_kill_before_it_was_applied() {
    for (what, from_cache) in [("some", &["/q/50", "/l/50"][..]), ("group", &[]), ("many", &[])] {
        let dir = tempfile::tempdir().unwrap();
        invalidate_and_kill(&dir, what).await;
        assert_sources(&dir, from_cache).await;
    }
}

#[tokio::test]
async fn directory_with_damaged_or_missing_journal_is_emptied() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[30] ^= 1,
        |bytes| bytes[8] ^= 1,
        |bytes| bytes.truncate(JOURNAL_LEN / 2),
        Vec::clear,
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        invalidate_and_kill(&dir, "some").await;
        let path = dir.path().join("marks");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        match bytes.is_empty() {
            true => fs::remove_file(path).unwrap(),
            false => fs::write(path, bytes).unwrap(),
        }
        assert_sources(&dir, &[]).await;
    }
}

#[tokio::test]
async fn journal_is_kept_if_the_scan_was_not_completed() {
    let dir = tempfile::tempdir().unwrap();
    invalidate_and_kill(&dir, "some").await;
    for first in FIRST {
        mknodat(CWD, pipe(&dir, first), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let layer = open_without_scan(&dir, || builder().durability(Durability::Crash));
    drop(layer);
    let started = Instant::now();
    while Files::open(dir.path(), Durability::Crash).is_err() {
        assert!(started.elapsed() < Duration::from_secs(20));
        for first in FIRST {
            // Releases a thread that waits for a writer; fails if there is none.
            let _ = rustix::fs::open(
                pipe(&dir, first),
                OFlags::WRONLY | OFlags::NONBLOCK,
                Mode::empty(),
            );
        }
        thread::yield_now();
    }
    for first in FIRST {
        // The file is left if its thread has not reached it.
        let _ = fs::remove_file(pipe(&dir, first));
    }
    assert!(!files(&dir, "head").is_empty(), "they are not judged yet");
    let layer = open(&dir, || builder().durability(Durability::Crash)).await;
    for path in PATHS {
        let want = if ["/q/50", "/l/50"].contains(&path) { "cache" } else { "origin" };
        assert_eq!(source(&layer, path).await, want, "{path}");
    }
}

#[tokio::test]
async fn journal_is_empty_after_the_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    source(&layer, "/50").await;
    source(&layer, "/60").await;
    written(&layer, 2).await;
    let cache = layer.handle();
    let is_empty = || fs::read(dir.path().join("marks")).unwrap()[24..28] == [0; 4];
    let release = block_pool();
    cache.delete_prefix("http://a/5", Purge::Hard);
    cache.delete(&key("/60"), Purge::Soft);
    assert!(!is_empty());
    release.wait();
    cache.swept().await;
    assert!(is_empty());
}
