use std::{fs, os::unix::fs::symlink, time::Duration};

use super::*;
use crate::files::{cache::Limits, root::Symlinks};

fn watched() -> (tempfile::TempDir, Root, Arc<Cache>, Watch) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path().to_owned(), Symlinks::Inside);
    let cache = Arc::new(Cache::new(Limits::default(), Duration::from_secs(1)));
    let watch = Watch::new(cache.clone()).unwrap();
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
fn watches_beyond_the_bound_go_to_directories_in_use() {
    let (folder, root, cache, watch) = watched();
    let now = std::time::Instant::now();
    for n in 0..2 * FOLDERS {
        fs::create_dir(folder.path().join(n.to_string())).unwrap();
    }
    watch.follow(&root, "0/x");
    cache.put("/0/x", Arc::new(crate::files::entry::Entry::Missing), now, cache.changes());
    for n in 0..2 * FOLDERS {
        watch.follow(&root, &format!("{n}/x"));
        assert!(counts(&watch).0 <= FOLDERS);
    }
    assert!(cache.fresh("/0/x", now).is_none(), "nobody hears of it any more");
    watch.follow(&root, "0/x");
    assert!(watch.0.folders().by_path.contains_key("0"));
}
