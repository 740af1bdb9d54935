mod kinds;
mod leases;
mod owners;
mod races;

use std::{
    fs,
    io::Read,
    os::unix::{fs::symlink, net::UnixListener},
};

use super::*;

type Open = fn(BorrowedFd<'_>, &str, OFlags) -> Result<OwnedFd, Errno>;

/// Both ways to open a path, so that each is tested on every kernel.
const WAYS: [(&str, Open); 2] = [("openat2", open_beneath), ("walk", open_by_walk)];

/// `root/` beside `secret.txt`, both below a temporary directory.
fn tree() -> (tempfile::TempDir, Root) {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("root");
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::write(outside.path().join("secret.txt"), "secret").unwrap();
    fs::write(path.join("top.txt"), "top").unwrap();
    fs::write(path.join("a/b/deep.txt"), "deep").unwrap();
    (outside, Root::new(path, Symlinks::Inside))
}

fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn files_and_directories_below_root_are_opened_by_openat2_and_by_walk() {
    let (_outside, root) = tree();
    for (way, open) in WAYS {
        let open = |path| open(root.directory().unwrap().fd.as_fd(), path, OPEN_READ_NONBLOCK);
        assert_eq!(text(open("top.txt").unwrap()), "top", "{way}");
        assert_eq!(text(open("a/b/deep.txt").unwrap()), "deep", "{way}");
        assert!(servable_metadata(&open("a/b").unwrap().into()).unwrap().is_dir(), "{way}");
        assert_eq!(open("a/none").unwrap_err(), Errno::NOENT, "{way}");
        assert_eq!(open("top.txt/x").unwrap_err(), Errno::NOTDIR, "{way}");
    }
}

#[test]
fn no_name_leads_out_of_root() {
    let (outside, root) = tree();
    let absolute = outside.path().join("secret.txt");
    for (way, open) in WAYS {
        for path in ["..", "../secret.txt", "a/../../secret.txt", absolute.to_str().unwrap()] {
            let errno =
                open(root.directory().unwrap().fd.as_fd(), path, OPEN_READ_NONBLOCK).unwrap_err();
            assert!(is_absence(errno), "{way} {path}: {errno}");
        }
    }
}

#[test]
fn symbolic_links_out_of_root_are_refused_by_openat2_and_by_walk() {
    let (outside, root) = tree();
    let inside = outside.path().join("root");
    symlink("../secret.txt", inside.join("up")).unwrap();
    symlink(outside.path().join("secret.txt"), inside.join("absolute")).unwrap();
    symlink("..", inside.join("parent")).unwrap();
    symlink("/", inside.join("all")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    for (way, open) in WAYS {
        for path in
            ["up", "absolute", "parent/secret.txt", "all/etc/passwd", "magic/etc/passwd", "loop"]
        {
            let errno =
                open(root.directory().unwrap().fd.as_fd(), path, OPEN_READ_NONBLOCK).unwrap_err();
            assert!(is_absence(errno), "{way} {path}: {errno}");
        }
    }
    for walks in [false, true] {
        root.openat2_unavailable.store(walks, Relaxed);
        assert!(root.open("up").unwrap().is_none());
    }
}

#[test]
fn relative_link_inside_is_followed_by_openat2_alone() {
    let (outside, root) = tree();
    symlink("a/b", outside.path().join("root/short")).unwrap();
    symlink("../top.txt", outside.path().join("root/a/top")).unwrap();
    let read = |path| Some(text(root.open(path).unwrap()?.file.into()));
    assert_eq!(read("short/deep.txt").as_deref(), Some("deep"));
    assert_eq!(read("a/top").as_deref(), Some("top"));
    root.openat2_unavailable.store(true, Relaxed);
    assert_eq!(read("short/deep.txt"), None);
    assert_eq!(read("a/top"), None);
    let directory = root.directory().unwrap();
    let fd = directory.fd.as_fd();
    assert_eq!(open_by_walk(fd, "short/deep.txt", OPEN_READ_NONBLOCK).unwrap_err(), Errno::NOTDIR);
    assert_eq!(open_by_walk(fd, "a/top", OPEN_READ_NONBLOCK).unwrap_err(), Errno::LOOP);
}

#[test]
fn lookup_without_openat2_walks_and_remembers_the_error_of_the_kernel() {
    let (outside, root) = tree();
    symlink("top.txt", outside.path().join("root/link")).unwrap();
    let directory = root.directory().unwrap();
    let fd = directory.fd.as_fd();
    let find = |path, says: Result<&str, Errno>| {
        let asked = std::cell::Cell::new(false);
        let found = root.open_inside(fd, path, OPEN_READ, |root, asked_for, flags| {
            asked.set(true);
            assert_eq!((asked_for, flags), (path, OPEN_READ));
            says.and_then(|instead| openat(root, instead, flags, Mode::empty()))
        });
        (asked.get(), found.map(text))
    };
    // Its result is returned, whether it finds something or not.
    assert_eq!(find("top.txt", Ok("a/b/deep.txt")), (true, Ok("deep".to_owned())));
    let others =
        [Errno::NOENT, Errno::XDEV, Errno::LOOP, Errno::ACCESS, Errno::AGAIN, Errno::MFILE];
    for errno in others {
        assert_eq!(find("top.txt", Err(errno)), (true, Err(errno)));
    }
    // A sandbox's filter, or this path alone.
    for _ in 0..2 {
        assert_eq!(find("top.txt", Err(Errno::PERM)), (true, Ok("top".to_owned())));
        assert_eq!(find("link", Err(Errno::PERM)), (true, Err(Errno::LOOP)));
    }
    // An old kernel.
    assert_eq!(find("top.txt", Err(Errno::NOSYS)), (true, Ok("top".to_owned())));
    assert_eq!(find("a/b/deep.txt", Ok("top.txt")), (false, Ok("deep".to_owned())));
    assert_eq!(find("link", Ok("top.txt")), (false, Err(Errno::LOOP)));
    assert!(root.open("link").unwrap().is_none() && root.open("top.txt").unwrap().is_some());
}

#[test]
fn special_file_is_absent_and_does_not_block() {
    let (outside, root) = tree();
    let inside = outside.path().join("root");
    rustix::fs::mkfifoat(CWD, inside.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    let _socket = UnixListener::bind(inside.join("socket")).unwrap();
    for walks in [false, true] {
        root.openat2_unavailable.store(walks, Relaxed);
        assert!(root.open("fifo").unwrap().is_none());
        assert!(root.open("socket").unwrap().is_none());
        assert!(root.open("a\0b").unwrap().is_none());
        assert!(root.open(&"n".repeat(300)).unwrap().is_none());
        assert!(root.open(&"n/".repeat(5000)).unwrap().is_none());
        assert!(root.open("top.txt").unwrap().is_some());
    }
}

#[test]
fn root_is_opened_once_and_stays_the_same() {
    let (outside, root) = tree();
    fs::rename(outside.path().join("root"), outside.path().join("moved")).unwrap();
    symlink("/etc", outside.path().join("root")).unwrap();
    assert!(root.open("top.txt").unwrap().is_some());
    assert!(root.open("passwd").unwrap().is_none());
}

#[test]
fn missing_root_is_error_until_it_exists() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("later");
    let root = Root::new(path.clone(), Symlinks::Inside);
    assert_eq!(root.open("x").unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("x"), "x").unwrap();
    assert!(root.open("x").unwrap().is_some());
}
