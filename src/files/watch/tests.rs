use std::{fs, os::unix::fs::symlink, time::Duration};

use super::*;
use crate::files::{cache::Limits, root::Symlinks};

const MAX_FOLDERS: usize = 16;

fn watcher() -> (tempfile::TempDir, Root, Arc<Cache>, FolderWatcher) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path().to_owned(), Symlinks::Inside);
    let cache = Arc::new(Cache::new(Limits::default(), Duration::from_secs(1)));
    let watcher = FolderWatcher::new(cache.clone(), MAX_FOLDERS).unwrap();
    (folder, root, cache, watcher)
}

fn counts(watcher: &FolderWatcher) -> (usize, usize) {
    let folders = watcher.0.folders();
    let names: usize = folders.by_watch.values().map(Vec::len).sum();
    assert_eq!(names, folders.by_path.len());
    (folders.by_watch.len(), names)
}

#[test]
fn watched_aliases_of_directories_are_bounded() {
    let (folder, root, _, watcher) = watcher();
    symlink(".", folder.path().join("ubuntu")).unwrap(); // as mirrors have it
    for name in ["a", "b", "other"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    for links in 0..30 {
        for name in ["a", "b"] {
            watcher.watch_path(&root, &format!("{}{name}/none", "ubuntu/".repeat(links)));
        }
    }
    // The root, `a` and `b`.
    assert_eq!(counts(&watcher), (3, 3 * MAX_PATHS_PER_FOLDER));
    watcher.watch_path(&root, "other/x");
    assert_eq!(counts(&watcher), (4, 3 * MAX_PATHS_PER_FOLDER + 1));
}

#[test]
fn watch_takes_no_more_folders_than_its_bound() {
    let (folder, root, _, watcher) = watcher();
    for n in 0..2 * MAX_FOLDERS {
        fs::create_dir(folder.path().join(n.to_string())).unwrap();
    }
    for n in 0..2 * MAX_FOLDERS {
        assert!(!watcher.is_path_watched(&format!("{n}/x")) || n >= MAX_FOLDERS - 1);
        watcher.watch_path(&root, &format!("{n}/x"));
        // The root counts.
        assert_eq!(counts(&watcher).0, (n + 2).min(MAX_FOLDERS));
    }
    assert!(watcher.is_path_watched("none/x"), "the bound is reached");
    // The watch of a deleted folder is free for another one.
    fs::remove_dir(folder.path().join("0")).unwrap();
    while watcher.is_path_watched("none/x") {
        thread::yield_now();
    }
    let last = format!("{}/x", 2 * MAX_FOLDERS - 1);
    watcher.watch_path(&root, &last);
    assert_eq!(counts(&watcher).0, MAX_FOLDERS);
    assert!(watcher.0.folders().by_path.contains_key(last.trim_end_matches("/x")));
}

#[test]
fn watch_of_another_root_starts_again() {
    let (_folder, root, cache, watcher) = watcher();
    let now = std::time::Instant::now();
    watcher.watch_path(&root, "x");
    cache.insert("/x", Arc::new(crate::files::entry::Entry::Missing), now, cache.change_count());
    watcher.reset();
    assert!(cache.fresh("/x", now).is_none());
    assert!(!watcher.is_path_watched("x"));
    watcher.watch_path(&root, "x");
    assert!(watcher.is_path_watched("x"));
}
