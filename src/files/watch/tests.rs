use std::{fs, os::unix::fs::symlink, time::Duration};

use super::*;
use crate::files::{cache::Limits, root::Symlinks};

const MAX_DIRECTORIES: usize = 16;

fn watcher() -> (tempfile::TempDir, Root, Arc<Cache>, DirectoryWatcher) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::new(directory.path().to_owned(), Symlinks::Inside);
    let cache = Arc::new(Cache::new(Limits::default(), Duration::from_secs(1)));
    let watcher = DirectoryWatcher::new(cache.clone(), MAX_DIRECTORIES).unwrap();
    (directory, root, cache, watcher)
}

fn counts(watcher: &DirectoryWatcher) -> (usize, usize) {
    let directories = watcher.0.directories();
    let names: usize = directories.by_watch.values().map(Vec::len).sum();
    assert_eq!(names, directories.by_path.len());
    (directories.by_watch.len(), names)
}

#[test]
fn watched_aliases_of_directories_are_bounded() {
    let (directory, root, _, watcher) = watcher();
    symlink(".", directory.path().join("ubuntu")).unwrap(); // as mirrors have it
    for name in ["a", "b", "other"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    for links in 0..30 {
        for name in ["a", "b"] {
            watcher.watch_path(&root, &format!("{}{name}/none", "ubuntu/".repeat(links)));
        }
    }
    // The root, `a` and `b`.
    assert_eq!(counts(&watcher), (3, 3 * MAX_PATHS_PER_DIRECTORY));
    watcher.watch_path(&root, "other/x");
    assert_eq!(counts(&watcher), (4, 3 * MAX_PATHS_PER_DIRECTORY + 1));
}

#[test]
fn watch_takes_no_more_directorys_than_its_bound() {
    let (directory, root, _, watcher) = watcher();
    for n in 0..2 * MAX_DIRECTORIES {
        fs::create_dir(directory.path().join(n.to_string())).unwrap();
    }
    for n in 0..2 * MAX_DIRECTORIES {
        assert!(!watcher.is_path_watched(&format!("{n}/x")) || n >= MAX_DIRECTORIES - 1);
        watcher.watch_path(&root, &format!("{n}/x"));
        // The root counts.
        assert_eq!(counts(&watcher).0, (n + 2).min(MAX_DIRECTORIES));
    }
    assert!(watcher.is_path_watched("none/x"), "the bound is reached");
    // The watch of a deleted directory is free for another one.
    fs::remove_dir(directory.path().join("0")).unwrap();
    while watcher.is_path_watched("none/x") {
        thread::yield_now();
    }
    let last = format!("{}/x", 2 * MAX_DIRECTORIES - 1);
    watcher.watch_path(&root, &last);
    assert_eq!(counts(&watcher).0, MAX_DIRECTORIES);
    assert!(watcher.0.directories().by_path.contains_key(last.trim_end_matches("/x")));
}

#[test]
fn watch_of_another_root_starts_again() {
    let (_directory, root, cache, watcher) = watcher();
    let now = std::time::Instant::now();
    watcher.watch_path(&root, "x");
    cache.insert("/x", Arc::new(crate::files::entry::Entry::Missing), now, cache.change_count());
    watcher.reset();
    assert!(cache.fresh("/x", now).is_none());
    assert!(!watcher.is_path_watched("x"));
    watcher.watch_path(&root, "x");
    assert!(watcher.is_path_watched("x"));
}
