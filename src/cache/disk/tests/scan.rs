//! The scan at the start.

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// The folders with which the threads of the scan begin. In each a pipe that nobody writes stops its thread.
const FIRST: [&str; 4] = ["00", "01", "02", "03"];

fn pipe(dir: &TempDir, folder: &str) -> PathBuf {
    dir.path().join(folder).join(format!("00000000000000{folder}.head"))
}

/// Stores a path in a folder that no thread of the scan begins with.
async fn store(layer: &CacheLayer, dir: &TempDir, path: &str) {
    loop {
        let before = layer.handle().figures().keys;
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
    for folder in FIRST {
        mknodat(CWD, pipe(&dir, folder), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let layer = begin_open(&dir, builder);
    let cache = layer.handle();
    assert_eq!(source(&layer, paths[0]).await, "origin");
    cache.delete(&Key::new("http", "a", paths[1], None).unwrap(), Purge::Hard);
    cache.delete_prefix("http://a/3/", Purge::Hard);
    cache.delete_prefix("http://a/5/", Purge::Soft);
    // The sweep has ended before these objects are known.
    cache.swept().await;
    assert_eq!(cache.figures().invalidated, 0);
    let pipes = FIRST.map(|folder| pipe(&dir, folder));
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
    let settled = async {
        while (files(&dir, "head").len(), files(&dir, "content").len()) != (5, 5) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap();
}

#[tokio::test]
async fn folder_is_emptied_if_power_loss_may_have_torn_it() {
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
