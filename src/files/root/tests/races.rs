//! Names that are exchanged below the root while they are opened.

use std::thread;

use rustix::fs::{RenameFlags, renameat_with};

use super::*;

/// Number of opens while two files are exchanged.
const OPENS: usize = if cfg!(miri) { 10 } else { 20_000 };

/// Returns the texts that are read at `path` while `one` and `other`, both below the root, are exchanged
/// all the time.
fn read_while(root: &Root, [one, other]: [&str; 2], path: &str) -> Vec<String> {
    let directory = root.directory().unwrap();
    let (fd, over) = (directory.fd.as_fd(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                renameat_with(fd, one, fd, other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let open = |_| {
            let opened = root.open(path).unwrap()?;
            Some(text(opened.file.into()))
        };
        let mut texts: Vec<String> = (0..OPENS).filter_map(open).collect();
        over.store(true, Relaxed);
        texts.sort();
        texts.dedup();
        texts
    })
}

#[test]
fn f4_directory_exchanged_for_link_leads_nowhere() {
    let (outside, root) = tree();
    fs::create_dir(outside.path().join("b")).unwrap();
    fs::write(outside.path().join("b/deep.txt"), "secret").unwrap();
    symlink(outside.path(), outside.path().join("root/out")).unwrap();
    symlink("..", outside.path().join("root/up")).unwrap();
    for link in ["out", "up"] {
        for symlinks in [Symlinks::Inside, Symlinks::Never] {
            let root = root.with_symlinks(symlinks);
            let read = read_while(&root, ["a", link], "a/b/deep.txt");
            assert!(read.iter().all(|text| text == "deep"), "{symlinks:?} {link} {read:?}");
        }
    }
    root.openat2_unavailable.store(true, Relaxed);
    let read = read_while(&root, ["a", "out"], "a/b/deep.txt");
    assert!(read.iter().all(|text| text == "deep"), "walk {read:?}");
}

#[test]
fn f4_file_exchanged_for_link_leads_nowhere() {
    let (outside, root) = tree();
    symlink(outside.path().join("secret.txt"), outside.path().join("root/link")).unwrap();
    for symlinks in [Symlinks::Inside, Symlinks::Never] {
        for fd_dir in [FD_DIR, "/none"] {
            let root = Root { fd_dir, ..root.with_symlinks(symlinks) };
            let read = read_while(&root, ["top.txt", "link"], "top.txt");
            assert!(read.iter().all(|text| text == "top"), "{root:?} {read:?}");
        }
    }
}

#[test]
#[cfg_attr(not(peer_root), ignore = "run as root: only root can make a link of another owner")]
fn f4_owner_check_applies_to_the_link_that_is_followed() {
    let (outside, root) = tree();
    let root = root.with_symlinks(Symlinks::SameOwner);
    let path = |name: &str| outside.path().join("root").join(name);
    symlink("top.txt", path("ours")).unwrap();
    symlink("../secret.txt", path("theirs")).unwrap();
    std::os::unix::fs::lchown(path("theirs"), Some(12345), None).unwrap();
    let read = read_while(&root, ["ours", "theirs"], "ours");
    assert!(read.iter().all(|text| text == "top"), "{read:?}");
}
