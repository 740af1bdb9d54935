//! Special files are checked and not opened; files and directories are opened.

use std::{mem::MaybeUninit, path::Path, thread};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

use super::*;

const RULES: [Symlinks; 4] =
    [Symlinks::Inside, Symlinks::SameOwner, Symlinks::Never, Symlinks::Any];

/// Reports opens of a file.
struct Opens(OwnedFd);

impl Opens {
    fn of(path: &Path) -> Self {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&inotify, path, WatchFlags::OPEN).unwrap();
        Self(inotify)
    }

    /// Returns whether the file has been opened since the last call.
    fn any(&self) -> bool {
        let mut space = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(&self.0, &mut space);
        match events.next() {
            Ok(event) => event.events().contains(ReadFlags::OPEN),
            Err(errno) => {
                assert_eq!(errno, Errno::AGAIN);
                false
            }
        }
    }
}

/// Returns the root with each rule, by `openat2` and without it.
fn each_way(root: &Root) -> impl Iterator<Item = Root> {
    RULES.into_iter().flat_map(|rule| [false, true].map(|walks| (rule, walks))).map(
        |(rule, walks)| {
            let root = root.with_symlinks(rule);
            root.openat2_unavailable.store(walks, Relaxed);
            root
        },
    )
}

#[test]
fn special_file_is_not_opened() {
    let (outside, root) = tree();
    let inside = outside.path().join("root");
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(CWD, inside.join("fifo"), mode).unwrap();
    symlink("fifo", inside.join("link")).unwrap();
    let opens = Opens::of(&inside.join("fifo"));
    for root in each_way(&root) {
        assert!(root.open("fifo").unwrap().is_none(), "{root:?}");
        assert!(root.open("link").unwrap().is_none(), "{root:?}");
        assert!(!opens.any(), "a program that waits to write has been woken: {root:?}");
    }
    openat(CWD, inside.join("fifo"), OPEN_READ_NONBLOCK, Mode::empty()).unwrap();
    assert!(opens.any(), "opens are reported");

    // Only root can make a device; /dev/null itself is opened all the time.
    let null = rustix::fs::makedev(1, 3);
    if rustix::fs::mknodat(CWD, inside.join("null"), FileType::CharacterDevice, mode, null).is_ok()
    {
        let opens = Opens::of(&inside.join("null"));
        for root in each_way(&root) {
            assert!(root.open("null").unwrap().is_none(), "{root:?}");
            assert!(!opens.any(), "{root:?}");
        }
    }
}

#[test]
fn files_without_proc_are_opened_by_path_again() {
    let (outside, root) = tree();
    let inside = outside.path().join("root");
    rustix::fs::mkfifoat(CWD, inside.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    symlink("../secret.txt", inside.join("out")).unwrap();
    let opens = Opens::of(&inside.join("fifo"));
    for mut root in each_way(&root) {
        root.fd_dir = "/none";
        let deep = root.open("a/b/deep.txt").unwrap().unwrap();
        assert_eq!((deep.meta.len(), text(deep.file.into())), (4, "deep".to_owned()), "{root:?}");
        assert!(root.open("a").unwrap().unwrap().meta.is_dir(), "{root:?}");
        assert!(root.open("fifo").unwrap().is_none() && !opens.any(), "{root:?}");
        let leads_out = matches!(root.symlinks, Symlinks::Any | Symlinks::SameOwner);
        assert_eq!(root.open("out").unwrap().is_some(), leads_out, "{root:?}");
    }
}

#[test]
#[cfg_attr(
    not(peer_root),
    ignore = "run as root: only root can change to a user who may not read the files"
)]
fn unreadable_file_is_absent() {
    let (outside, root) = tree();
    let change = |path: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(outside.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    change("", 0o755);
    fs::create_dir(outside.path().join("root/closed")).unwrap();
    fs::write(outside.path().join("root/closed/file"), "closed").unwrap();
    fs::create_dir(outside.path().join("root/passage")).unwrap();
    fs::write(outside.path().join("root/passage/file"), "open").unwrap();
    change("root/top.txt", 0o600);
    change("root/closed", 0o600);
    change("root/passage", 0o711);
    thread::scope(|scope| {
        scope.spawn(|| {
            // For this thread only.
            let (user, group) = (Uid::from_raw(12345), Gid::from_raw(12345));
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
            for mut root in each_way(&root) {
                for fd_dir in [FD_DIR, "/none"] {
                    root.fd_dir = fd_dir;
                    for path in ["top.txt", "closed", "closed/file", "passage"] {
                        assert!(root.open(path).unwrap().is_none(), "{path} {root:?}");
                    }
                    for path in ["a/b/deep.txt", "passage/file", "a"] {
                        assert!(root.open(path).unwrap().is_some(), "{path} {root:?}");
                    }
                }
            }
        });
    });
}

#[test]
fn files_generated_by_the_kernel_are_missing_and_not_opened() {
    for (directory, files) in [
        ("/proc", ["self/status", "self/mem", "sys/kernel/ostype", "kmsg", "kcore", "self", "."]),
        ("/sys", ["kernel/uevent_seqnum", "kernel/mm", ".", "fs", "power", "bus", "none"]),
        ("/", ["proc/self/status", "proc/kmsg", "proc", "sys/kernel", "sys", "proc/1", "sys/fs"]),
    ] {
        for root in each_way(&Root::new(directory.into(), Symlinks::Inside)) {
            for path in files {
                assert!(root.open(path).unwrap().is_none(), "{directory} {path} {root:?}");
            }
        }
    }
}
