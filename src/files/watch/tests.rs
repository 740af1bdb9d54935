use std::{fs, os::unix::fs::symlink, time::Duration};

use super::*;
use crate::files::{cache::Limits, root::Symlinks};

const MOST: usize = 16;

fn watched() -> (tempfile::TempDir, Root, Arc<Cache>, Watch) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path().to_owned(), Symlinks::Inside);
    let cache = Arc::new(Cache::new(Limits::default(), Duration::from_secs(1)));
    let watch = Watch::new(cache.clone(), MOST).unwrap();
    (folder, root, cache, watch)
}

fn counts(watch: &Watch) -> (usize, usize) {
    let folders = watch.0.folders();
    let names: usize = folders.by_watch.values().map(Vec::len).sum();
    assert_eq!(names, folders.by_path.len());
    (folders.by_watch.len(), names)
}

#[test]
fn second_names_of_directories_leave_room_for_others() {
    let (folder, root, _, watch) = watched();
    symlink(".", folder.path().join("ubuntu")).unwrap(); // as mirrors have it
    for name in ["a", "b", "other"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    for links in 0..30 {
        for name in ["a", "b"] {
            watch.follow(&root, &format!("{}{name}/none", "ubuntu/".repeat(links)));
        }
    }
    // The root, and the two in it.
    assert_eq!(counts(&watch), (3, 3 * NAMES));
    watch.follow(&root, "other/x");
    assert_eq!(counts(&watch), (4, 3 * NAMES + 1));
}

#[test]
fn watch_takes_no_more_folders_than_its_bound() {
    let (folder, root, _, watch) = watched();
    for n in 0..2 * MOST {
        fs::create_dir(folder.path().join(n.to_string())).unwrap();
    }
    for n in 0..2 * MOST {
        assert!(!watch.follows(&format!("{n}/x")) || n >= MOST - 1);
        watch.follow(&root, &format!("{n}/x"));
        // The root is one of them.
        assert_eq!(counts(&watch).0, (n + 2).min(MOST));
    }
    assert!(watch.follows("none/x"), "nothing can be done for it");
    // A folder that is gone leaves its place to another one.
    fs::remove_dir(folder.path().join("0")).unwrap();
    while watch.follows("none/x") {
        thread::yield_now();
    }
    let last = format!("{}/x", 2 * MOST - 1);
    watch.follow(&root, &last);
    assert_eq!(counts(&watch).0, MOST);
    assert!(watch.0.folders().by_path.contains_key(last.trim_end_matches("/x")));
}

#[test]
fn watch_of_another_root_begins_anew() {
    let (_folder, root, cache, watch) = watched();
    let now = std::time::Instant::now();
    watch.follow(&root, "x");
    cache.put("/x", Arc::new(crate::files::entry::Entry::Missing), now, cache.changes());
    watch.begin_anew();
    assert!(cache.fresh("/x", now).is_none());
    assert!(!watch.follows("x"));
    watch.follow(&root, "x");
    assert!(watch.follows("x"));
}
