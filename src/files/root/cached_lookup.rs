//! Lookups that never block: small files in the page cache.

use std::{
    fs::{File, Metadata},
    io::IoSliceMut,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::Ordering::Relaxed,
};

use rustix::{
    fs::{CWD, FsWord, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2},
    io::{Errno, ReadWriteFlags, preadv2},
};

use super::{OPEN_PATH, OPEN_READ, Root, Symlinks, backend_file, is_absence};
use crate::files::backend::{BackendFile, Content, Lookup};

/// Local file systems, by their numbers in statfs(2): they open a file whose path is in the kernel's cache
/// without a request to a server or a daemon. They are ext, XFS, Btrfs, F2FS and tmpfs, but not overlayfs:
/// its lower layer can be any file system.
const LOCAL_FILE_SYSTEMS: [FsWord; 5] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994];

/// Returns whether the directory is on a local file system. May block.
pub(super) fn is_local(directory: BorrowedFd<'_>) -> bool {
    fstatfs(directory).is_ok_and(|fs| LOCAL_FILE_SYSTEMS.contains(&fs.f_type))
}

impl Root {
    /// Looks up a path without waiting for a disk, a remote server or the holder of a lease on the
    /// file.
    ///
    /// Finds small files, directories and names that the kernel has cached as missing, and only under
    /// [`Symlinks::Inside`]. Returns `None` for everything else and on every error: the caller then
    /// uses [`open`](Self::open), which may block.
    pub(super) fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        let unsupported = &self.cached_lookup_unsupported;
        let is_supported =
            self.symlinks == Symlinks::Inside && !self.openat2_unavailable.load(Relaxed);
        if !is_supported || unsupported.load(Relaxed) {
            return None;
        }
        let directory = self.lock().clone().filter(|directory| directory.is_local)?;
        let root = &directory.fd;
        // Only names in the kernel's cache, and only on this file system.
        let within = ResolveFlags::BENEATH
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV
            | ResolveFlags::CACHED;
        let held = match openat2(root, path, OPEN_PATH, Mode::empty(), within) {
            Ok(fd) => File::from(fd),
            Err(Errno::INVAL | Errno::NOSYS) => {
                unsupported.store(true, Relaxed); // before Linux 5.12
                return None;
            }
            // A sandbox (PERM); another file system or a path out of the root (XDEV).
            Err(Errno::PERM | Errno::XDEV) => return None,
            // A deleted directory is empty, but its path may name another one by now.
            Err(errno) => {
                return (is_absence(errno) && !directory.is_deleted()).then_some(Lookup::Missing);
            }
        };
        let meta = held.metadata().ok()?;
        if meta.is_dir() {
            return Some(Lookup::Directory);
        }
        if !meta.is_file() {
            return Some(Lookup::Missing);
        }
        if meta.len() > backend_file::MAX_IN_MEMORY {
            return None;
        }
        // Reopen the checked file by its descriptor. NONBLOCK: do not wait for the holder of a lease.
        let fd_path = format!("{}/{}", self.fd_dir, held.as_raw_fd());
        let flags = OPEN_READ.union(OFlags::NONBLOCK);
        let file = File::from(openat(CWD, fd_path, flags, Mode::empty()).ok()?);
        match read_cached(&file, &meta) {
            Ok(file) => file.map(Lookup::File),
            Err(errno) => {
                // The file system has no RWF_NOWAIT.
                unsupported.fetch_or(matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS), Relaxed);
                None
            }
        }
    }
}

/// Reads a whole small file. Returns `None` if not all of it is in the page cache, or if it is being
/// modified.
fn read_cached(file: &File, meta: &Metadata) -> rustix::io::Result<Option<BackendFile>> {
    let len = usize::try_from(meta.len()).unwrap_or(0);
    let mut bytes = vec![0; len + 1];
    let mut buf = [IoSliceMut::new(&mut bytes)];
    let n = preadv2(file, &mut buf, 0, ReadWriteFlags::NOWAIT)?;
    let Ok(after) = file.metadata() else { return Ok(None) };
    if n != len || backend_file::stamp(meta) != backend_file::stamp(&after) {
        return Ok(None);
    }
    bytes.truncate(n);
    Ok(backend_file::create(Content::Bytes(bytes.into_boxed_slice().into()), &after).ok())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use rustix::fs::{FileType, mknodat};

    use super::*;

    /// Makes a root with some files, beside the package and so perhaps on a local file system.
    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir_in(".").unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("docs")).unwrap();
        fs::write(path("docs/a.txt"), "content").unwrap();
        fs::write(path("docs/empty"), "").unwrap();
        fs::write(
            path("large"),
            vec![7; usize::try_from(backend_file::MAX_IN_MEMORY).unwrap() + 1],
        )
        .unwrap();
        symlink("docs/a.txt", path("inside")).unwrap();
        symlink("/etc/hostname", path("outside")).unwrap();
        let root = Root::new(directory.path().to_owned(), Symlinks::Inside);
        (directory, root)
    }

    fn found(root: &Root, path: &str) -> Option<String> {
        Some(match root.try_lookup_cached(path)? {
            Lookup::Missing => "missing".to_owned(),
            Lookup::Directory => "directory".to_owned(),
            Lookup::File(BackendFile { content: Content::Bytes(bytes), .. }) => {
                String::from_utf8(bytes.to_vec()).unwrap()
            }
            Lookup::File(_) => "open".to_owned(),
        })
    }

    #[test]
    fn cached_lookup_agrees_with_blocking_lookup() {
        let (_directory, root) = root();
        if !root.directory().unwrap().is_local {
            return; // no lookup is cached then
        }
        let whole = |text: &str| Some(text.to_owned());
        for (path, want) in [
            ("docs/a.txt", whole("content")),
            ("docs/empty", whole("")),
            ("docs", whole("directory")),
            ("inside", whole("content")),
            ("large", None),
            ("outside", None),
        ] {
            let waited = root.open(path).unwrap().is_some();
            assert_eq!(found(&root, path), want, "{path}");
            assert!(want.is_none() || waited, "{path}");
        }
        assert!(root.open("none").unwrap().is_none());
        assert_eq!(
            found(&root, "none"),
            whole("missing"),
            "the kernel has cached that it is missing"
        );
        assert!(matches!(found(&root, "docs/a.txt/x").as_deref(), None | Some("missing")));
        // The same state has the same tag.
        let Some(Lookup::File(now)) = root.try_lookup_cached("docs/a.txt") else {
            panic!("it is cached")
        };
        let Ok(Lookup::File(then)) = crate::files::Backend::lookup(&root, "docs/a.txt") else {
            panic!()
        };
        assert_eq!((now.tag, now.modified), (then.tag, then.modified));
    }

    #[test]
    fn cached_lookup_declines_other_rules_and_special_files() {
        let (directory, root) = root();
        for symlinks in [Symlinks::Never, Symlinks::Any, Symlinks::SameOwner] {
            let root = root.with_symlinks(symlinks);
            root.open("docs/a.txt").unwrap();
            assert_eq!(found(&root, "docs/a.txt"), None, "{symlinks:?}");
        }
        let _socket = UnixListener::bind(directory.path().join("socket")).unwrap();
        let fifo = directory.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in ["socket", "fifo"] {
            assert!(root.open(path).unwrap().is_none());
            assert!(matches!(found(&root, path).as_deref(), None | Some("missing")), "{path}");
        }
        root.openat2_unavailable.store(true, Relaxed);
        assert_eq!(found(&root, "docs/a.txt"), None);
    }
}
