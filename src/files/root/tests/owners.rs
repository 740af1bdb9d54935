//! Links to targets of the same owner, and what each owner can publish by them.

use std::os::unix::fs::lchown;

use super::*;

const ALICE: u32 = 1001;
const BOB: u32 = 1002;

/// As [`tree`], with [`Symlinks::SameOwner`].
fn own() -> (tempfile::TempDir, Root) {
    let (outside, root) = tree();
    let root = root.with_symlinks(Symlinks::SameOwner);
    (outside, root)
}

fn read(root: &Root, path: &str) -> Option<String> {
    root.open(path).unwrap().map(|opened| text(opened.file.into()))
}

#[test]
fn own_links_lead_anywhere_in_every_spelling() {
    let (outside, root) = own();
    let secret = outside.path().join("secret.txt");
    fs::create_dir(outside.path().join("out")).unwrap();
    fs::write(outside.path().join("out/file"), "out").unwrap();
    for (name, target, path, want) in [
        ("file", "top.txt", "file", Some("top")),
        ("twice", "file", "twice", Some("top")),
        ("dots", "./a/.././/top.txt", "dots", Some("top")),
        ("up", "../secret.txt", "up", Some("secret")),
        ("absolute", secret.to_str().unwrap(), "absolute", Some("secret")),
        ("directory", "../out", "directory/file", Some("out")),
        ("slash", "../out/", "slash/file", Some("out")),
        ("through", "directory/../secret.txt", "through", Some("secret")),
        ("a/b/back", "../../twice", "a/b/back", Some("top")),
        ("here", ".", "here/here/a/b/deep.txt", Some("deep")),
        ("file-slash", "top.txt/", "file-slash", None),
        ("file-directory", "top.txt", "file-directory/x", None),
        ("dangling", "none", "dangling", None),
        ("loop", "loop", "loop", None),
        ("one", "two", "one", None),
        ("two", "one", "two/x", None),
    ] {
        symlink(target, outside.path().join("root").join(name)).unwrap();
        assert_eq!(read(&root, path).as_deref(), want, "{path}");
    }
    for directory in ["directory", "here", "slash", "a"] {
        assert!(root.open(directory).unwrap().unwrap().meta.is_dir(), "{directory}");
    }
    // Allowed in links, not in requests.
    for path in ["..", "../secret.txt", "a/../top.txt", "a/./b", "a//b", "here/", "/etc/passwd"] {
        assert!(root.open(path).unwrap().is_none(), "{path}");
    }
}

#[test]
fn path_follows_as_many_links_as_the_kernel() {
    let (outside, root) = own();
    symlink(".", outside.path().join("root/l")).unwrap();
    for (links, want) in [(40, Some("top")), (41, None), (15_000, None)] {
        let path = format!("{}top.txt", "l/".repeat(links));
        assert_eq!(read(&root, &path).as_deref(), want, "{links}");
    }
    let links = |n: usize| outside.path().join(format!("root/{n}"));
    symlink("top.txt", links(0)).unwrap();
    for n in 1..=40 {
        symlink((n - 1).to_string(), links(n)).unwrap();
    }
    assert_eq!(read(&root, "39").as_deref(), Some("top"));
    assert_eq!(read(&root, "40"), None);
}

#[test]
#[cfg_attr(not(peer_root), ignore = "run as root: only root can make a link of another owner")]
fn f4_link_of_one_owner_publishes_nothing_behind_link_of_another() {
    let (outside, root) = own();
    fs::create_dir_all(outside.path().join("bob/directory")).unwrap();
    fs::create_dir(outside.path().join("alice")).unwrap();
    let give = |path: &str, owner| {
        lchown(outside.path().join(path), Some(owner), None).unwrap();
    };
    for (name, target, owner) in [
        // Alice links to a link of Bob's.
        ("root/link", "../bob/link", ALICE),
        ("root/through", "../bob/to-alice/private", ALICE),
        ("root/directory", "../bob/to-alice", ALICE),
        ("root/slash", "../bob/to-alice/", ALICE),
        ("root/bob", "../bob/shown", BOB),
        ("root/bob-too", "bob", BOB),
        ("root/bob-twice", "bob", ALICE),
        ("root/alice", "alice-too", ALICE),
        ("root/alice-too", "../alice/../alice/private", ALICE),
        ("bob/link", "../alice/private", BOB),
        ("bob/to-alice", "../alice", BOB),
    ] {
        symlink(target, outside.path().join(name)).unwrap();
        give(name, owner);
    }
    fs::write(outside.path().join("alice/private"), "alice").unwrap();
    fs::write(outside.path().join("bob/shown"), "bob").unwrap();
    for (path, owner) in
        [("alice", ALICE), ("alice/private", ALICE), ("bob", BOB), ("bob/shown", BOB)]
    {
        give(path, owner);
    }
    for (path, want) in [
        ("link", None),
        ("through", None),
        ("directory/private", None),
        ("slash/private", None),
        ("bob", Some("bob")),
        ("bob-too", Some("bob")),
        ("bob-twice", None),
        ("alice", Some("alice")),
    ] {
        assert_eq!(read(&root, path).as_deref(), want, "{path}");
    }
}
