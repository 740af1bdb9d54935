//! A directory as a root: files are opened below it and nowhere else.
//!
//! The kernel confines paths where it can: `openat2` with `RESOLVE_BENEATH` resolves a path in one
//! step, so no directory can be exchanged for a symbolic link meanwhile. Without `openat2` (old kernels,
//! sandboxes) the path is walked one component at a time, and no symbolic link is followed.
//!
//! The two differ in one point: `openat2` follows a relative link that stays below the root, the
//! walk follows none. Both refuse absolute links and links that lead out.
//!
//! A path is opened with `O_PATH` and its type is checked before the file itself is opened: opening a
//! FIFO wakes the program that waits to write into it, and opening a device may have any effect.

pub(super) mod backend_file;
mod cached_lookup;
mod open;
mod owners;

use std::{
    ffi::CStr,
    fs::{File, Metadata},
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};

use self::open::{is_absence, open_beneath, open_by_walk, servable_metadata};
use super::backend::{Backend, Item, Lookup};

/// Maximum number of attempts to open a path while concurrent renames interfere (EAGAIN of openat2(2)).
const MAX_ATTEMPTS: usize = 8;

/// The directory in which each descriptor of the process has a name, by which an `O_PATH` descriptor is reopened.
const FD_DIR: &str = "/proc/self/fd";

/// Flags that resolve a path without opening the file, so that no FIFO or device notices; its type is
/// checked first.
const OPEN_PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Flags that open files and directories. Blocking: the open waits for the holder of a lease (fcntl(2)).
const OPEN_READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// Flags that open files and directories by path. Non-blocking: a FIFO may be at the path by now, and its open
/// would wait for a writer.
const OPEN_READ_NONBLOCK: OFlags = OPEN_READ.union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// Flags that open a directory for path resolution only, which needs no permission to read it.
pub(super) const OPEN_DIR_PATH: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Which symbolic links below a directory are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Symlinks {
    /// Relative links that stay inside the directory. Without `openat2` (before Linux 5.6, and in some
    /// sandboxes) none is followed, as with [`Never`](Self::Never).
    Inside,
    /// Links whose target has the same owner as the link itself; in a chain each link is checked. So no user can publish the
    /// files of another user.
    SameOwner,
    /// No links.
    Never,
    /// All links. Every user who can create a link there can publish any file that this process can read.
    Any,
}

/// The root directory. It is kept open, so that it stays the same if its path is renamed, and is reopened if it
/// was deleted.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    symlinks: Symlinks,
    /// `None` until it can be opened.
    directory: Mutex<Option<Arc<OpenDirectory>>>,
    /// Whether the kernel has no `openat2`, so that it is not tried again.
    openat2_unavailable: AtomicBool,
    /// [`FD_DIR`], or another path in tests.
    fd_dir: &'static str,
    /// Whether the kernel or the file system has no lookup that never blocks, so that it is not tried again.
    cached_lookup_unsupported: AtomicBool,
}

/// Returns an error of the same kind that names the directory.
pub(super) fn cannot_open(directory: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot open the directory {}: {error}", directory.display()),
    )
}

/// The open directory.
#[derive(Debug)]
struct OpenDirectory {
    fd: OwnedFd,
    /// Whether lookups that never block are possible below it.
    is_local: bool,
}

impl OpenDirectory {
    /// Opens a directory. May block.
    fn open(path: &Path) -> io::Result<Self> {
        let fd = openat(CWD, path, OPEN_DIR_PATH, Mode::empty())?;
        let is_local = cached_lookup::is_local(fd.as_fd());
        Ok(Self { fd, is_local })
    }

    /// Returns whether it was deleted: its link count is zero.
    fn is_deleted(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// An open regular file or directory.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// The metadata from before the file was opened.
    pub(super) meta: Metadata,
}

impl Root {
    /// Opens the directory if it exists; otherwise each [`open`](Self::open) tries again.
    pub(super) fn new(path: PathBuf, symlinks: Symlinks) -> Self {
        let root = Self {
            path,
            symlinks,
            directory: Mutex::default(),
            openat2_unavailable: AtomicBool::new(false),
            fd_dir: FD_DIR,
            cached_lookup_unsupported: AtomicBool::new(false),
        };
        if let Err(error) = root.directory() {
            tracing::warn!(path = %root.path.display(), %error, "cannot open the directory; each request tries again");
        }
        root
    }

    /// Returns the same open directory with another rule for links.
    #[cfg(test)]
    fn with_symlinks(&self, symlinks: Symlinks) -> Self {
        let root = Self::new(self.path.clone(), symlinks);
        root.lock().clone_from(&self.lock());
        root
    }

    /// Opens the file or directory at `path` below the root. Returns `None` if there is none that may be served.
    ///
    /// Blocks on the disk. `path` is relative, with single slashes between its names.
    ///
    /// # Errors
    /// If the root itself cannot be opened, and on errors that are not the path's fault: out of
    /// descriptors or memory, an I/O error.
    pub(super) fn open(&self, path: &str) -> io::Result<Option<Opened>> {
        let directory = self.directory().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied => cannot_open(&self.path, &error),
            _ => error, // its errno says whether descriptors or memory have run out
        })?;
        let root = directory.fd.as_fd();
        let mut opened = Err(Errno::AGAIN);
        for _ in 0..MAX_ATTEMPTS {
            opened = self.try_open(root, path);
            if !matches!(opened, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(errno) if is_absence(errno) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn try_open(&self, root: BorrowedFd<'_>, path: &str) -> Result<Opened, Errno> {
        let held = File::from(self.open_with(root, path, OPEN_PATH)?);
        let meta = servable_metadata(&held)?;
        let fd_path = format!("{}/{}", self.fd_dir, held.as_raw_fd());
        match openat(CWD, fd_path, OPEN_READ, Mode::empty()) {
            Ok(fd) => Ok(Opened { file: fd.into(), meta }),
            // The file is not readable, or /proc is missing or not accessible: try by path.
            Err(Errno::NOENT | Errno::ACCESS) => {
                let file = File::from(self.open_with(root, path, OPEN_READ_NONBLOCK)?);
                let now = servable_metadata(&file)?;
                let same = (now.dev(), now.ino()) == (meta.dev(), meta.ino());
                if same { Ok(Opened { file, meta: now }) } else { Err(Errno::AGAIN) }
            }
            Err(errno) => Err(errno),
        }
    }

    /// Opens `path` with `flags`, as far as the rule for links permits.
    fn open_with(&self, root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        if path == "." || self.symlinks == Symlinks::Any {
            openat(root, path, flags, Mode::empty())
        } else if self.symlinks == Symlinks::SameOwner {
            owners::open_by_owner(root, path, flags)
        } else if self.symlinks == Symlinks::Never {
            open_by_walk(root, path, flags)
        } else {
            self.open_inside(root, path, flags, open_beneath)
        }
    }

    /// Opens `path` by `beneath` (`openat2`), or by walking without links where the kernel has no `openat2`.
    fn open_inside(
        &self,
        root: BorrowedFd<'_>,
        path: &str,
        flags: OFlags,
        beneath: impl FnOnce(BorrowedFd<'_>, &str, OFlags) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        if self.openat2_unavailable.load(Relaxed) {
            return open_by_walk(root, path, flags);
        }
        match beneath(root, path, flags) {
            Err(Errno::NOSYS) => {
                self.openat2_unavailable.store(true, Relaxed);
                open_by_walk(root, path, flags)
            }
            // A sandbox's filter returns EPERM, but so may a file: do not remember it.
            Err(Errno::PERM) => open_by_walk(root, path, flags),
            other => other,
        }
    }

    /// Returns the listing's item for `name` in `directory`, which is at `path`. A link is listed as its target.
    ///
    /// Returns `None` if it has been deleted meanwhile, is neither a file nor a directory, or is a link that
    /// is not followed or has no target.
    fn item(&self, directory: &File, path: &str, name: &CStr) -> Option<Item> {
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let (kind, size, seconds) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let name = name.to_str().ok()?;
                let path = if path == "." { name.to_owned() } else { format!("{path}/{name}") };
                let Opened { meta, .. } = self.open(&path).ok()??;
                (FileType::from_raw_mode(meta.mode()), meta.size(), meta.mtime())
            }
            kind => (kind, u64::try_from(stat.st_size).unwrap_or(0), stat.st_mtime),
        };
        let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        matches!(kind, FileType::RegularFile | FileType::Directory).then(|| Item {
            name: name.to_bytes().to_vec(),
            is_directory: kind == FileType::Directory,
            size,
            modified: SystemTime::UNIX_EPOCH.checked_add(since),
        })
    }

    /// Returns the open directory, or opens it.
    fn directory(&self) -> io::Result<Arc<OpenDirectory>> {
        if let Some(directory) = &*self.lock() {
            return Ok(directory.clone());
        }
        let directory = Arc::new(OpenDirectory::open(&self.path)?);
        Ok(self.lock().get_or_insert(directory).clone())
    }

    /// Reopens the directory if it was deleted and its path names a directory again. Returns whether it did. May
    /// block.
    pub(super) fn reopen_if_deleted(&self) -> bool {
        let Some(old) = self.lock().clone().filter(|directory| directory.is_deleted()) else {
            return false;
        };
        let Ok(new) = OpenDirectory::open(&self.path) else { return false };
        let mut directory = self.lock();
        let is_first = directory.as_ref().is_some_and(|directory| Arc::ptr_eq(directory, &old));
        if is_first {
            *directory = Some(Arc::new(new));
        }
        drop(directory);
        is_first
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OpenDirectory>>> {
        // Nothing panics while it is held.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Root {
    fn lookup(&self, path: &str) -> io::Result<Lookup> {
        Ok(match self.open(path)? {
            None => Lookup::Missing,
            Some(Opened { meta, .. }) if meta.is_dir() => Lookup::Directory,
            Some(Opened { file, meta }) => {
                backend_file::read(file, meta)?.map_or(Lookup::Missing, Lookup::File)
            }
        })
    }

    fn try_lookup_cached(&self, path: &str) -> Option<Lookup> {
        Self::try_lookup_cached(self, path)
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let Some(Opened { file: directory, .. }) = self.open(path)? else { return Ok(()) };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..")
                && let Some(item) = self.item(&directory, path, name)
                && each(item).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
