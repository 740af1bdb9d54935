//! Tests with a process that is killed before its invalidations are applied to the files.

use std::sync::Barrier;

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    process::{Signal, getpid, kill_process},
};

use super::{
    super::{
        super::pool,
        journal::{JOURNAL_LEN, MAX_PENDING},
    },
    removals::EMFILE,
    scan::{FIRST, pipe},
    writes::open_store_with,
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

fn durability_of(what: &str) -> Durability {
    if what.ends_with("default durability") { Durability::PowerLoss } else { Durability::Crash }
}

/// The child process of the tests below: invalidates, and kills itself before files are removed.
#[tokio::test]
async fn child_invalidates_and_kills_itself() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let what = std::env::var("VESTIBULE_CACHE_INVALIDATES").unwrap();
    let layer = builder().durability(durability_of(&what)).open(dir).unwrap();
    let cache = layer.handle();
    cache.loaded().await;
    let _blocked = block_pool();
    match &*what {
        "some" | "some, with the default durability" => {
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
    let layer = open(dir, || builder().durability(durability_of(what))).await;
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
        assert!(started.elapsed() < Duration::from_secs(60));
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
        tokio::time::timeout(Duration::from_secs(60), heads).await.unwrap();
    }
}

#[tokio::test]
async fn invalidation_survives_a_kill_before_it_was_applied() {
    let kept = &["/q/50", "/l/50"][..];
    for (what, from_cache) in
        [("some", kept), ("some, with the default durability", kept), ("group", &[]), ("many", &[])]
    {
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

#[test]
fn directory_whose_journal_cannot_be_read_is_not_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Files::open(dir.path(), Durability::Crash).unwrap());
    drop(Journal::open(&files, |_| ()).unwrap());
    files.write_content(1, b"content").unwrap();
    files.write_head(1, b"head").unwrap();
    files.commit(1).unwrap();
    files.faults.open.errno.store(EMFILE, Relaxed);
    assert!(Journal::open(&files, |_| ()).is_err());
    assert!(files.has_content(1, 7));
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
        assert!(started.elapsed() < Duration::from_secs(60));
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
async fn journal_is_empty_after_the_sweep_and_all_deletions() {
    let dir = tempfile::tempdir().unwrap();
    let layer = open(&dir, builder).await;
    for path in PATHS {
        source(&layer, path).await;
    }
    written(&layer, PATHS.len() as u64).await;
    let cache = layer.handle();
    let is_empty = || fs::read(dir.path().join("marks")).unwrap()[24..28] == [0; 4];
    let release = block_pool();
    cache.delete_prefix("http://a/p/", Purge::Hard);
    for (path, purge) in PATHS[2..].iter().zip([Purge::Soft, Purge::Hard, Purge::Soft]) {
        cache.delete(&key(path), purge);
    }
    assert!(!is_empty());
    assert_eq!(files(&dir, "head").len(), PATHS.len());
    release.wait();
    cache.swept().await;
    assert!(is_empty());
    assert_eq!((files(&dir, "head").len(), files(&dir, "content").len()), (4, 4));
    drop((layer, cache));
    let layer = open(&dir, builder).await;
    for path in PATHS {
        let is_kept = PATHS[5..].contains(&path);
        assert_eq!(source(&layer, path).await, if is_kept { "cache" } else { "origin" }, "{path}");
    }
}

#[tokio::test]
async fn deletions_that_wait_for_the_disk_are_bounded() {
    const MORE: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let (disk, marks) = open_store_with(&dir, Durability::PowerLoss);
    disk.loaded().await;
    // An object of an earlier process for each key, so that each deletion is recorded.
    let keys: Vec<_> = (0..MAX_PENDING + MORE).map(|i| key(&format!("/{i}"))).collect();
    disk.inner.removals.hold();
    keys.iter().zip(1..).for_each(|(key, id)| disk.inner.removals.add(key, &[id]));
    let inner = disk.inner.clone();
    let layer = builder().with_store(Arc::new(disk), Clock::new(), marks);
    let (cache, deletions) = (layer.handle(), &layer.shared.deletions);
    let (hang, started) = (inner.files.hang(), Instant::now());
    cache.delete(&keys[0], Purge::Hard);
    while deletions.waiting() > 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "a thread takes it");
        thread::yield_now();
    }
    keys[1..].iter().for_each(|key| cache.delete(key, Purge::Hard));
    let is_empty = || fs::read(dir.path().join("marks")).unwrap()[24..28] == [0; 4];
    assert_eq!((deletions.waiting(), is_empty()), (MAX_PENDING - 1, false));
    drop(hang);
    cache.swept().await;
    assert!(is_empty(), "all of them are on disk");
}
