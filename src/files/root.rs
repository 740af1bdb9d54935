//! A folder as a root: files are opened below it and nowhere else.
//!
//! The kernel does the confining where it can: `openat2` with `RESOLVE_BENEATH` resolves a path
//! in one step during which nobody can swap a folder for a symbolic link. Where a kernel or a
//! sandbox has no `openat2` we walk down one component at a time and follow no symbolic link.
//!
//! The two differ in one point: `openat2` follows a relative link that stays below the root, the
//! walk follows none. Absolute links and links that lead out are refused by both.
//!
//! What a path leads to is held and looked at before it is opened: to open a FIFO wakes the program
//! that waits to write into it, and to open a device may do anything.

mod cached_lookup;
mod owners;
pub(super) mod source;

use std::{
    ffi::CStr,
    fs::{File, Metadata},
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::Errno,
};

use self::cached_lookup::CachedLookupSupport;
use super::backend::{Backend, Found, Item};

/// How often a path is gone down again when a race against a rename was lost.
const RACES: usize = 8;

/// Where each of our descriptors has a name, by which what is held can be opened.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Flags that open a path without opening what it names, until its type is known: no FIFO or device
/// notices it.
const OPEN_PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// How files and folders are opened. Blocking: who has a lease of a file is waited for.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// How they are opened by their path, where somebody may have put a FIFO meanwhile: not blocking, it
/// would wait for its writer.
const READ_BY_PATH: OFlags = READ.union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// Flags that open a folder for path resolution only, which needs no permission to read it.
pub(super) const OPEN_DIR_PATH: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Which symbolic links below a folder are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Symlinks {
    /// Relative ones that stay inside of the folder. Where the kernel has no `openat2` (before Linux
    /// 5.6, and in some sandboxes) none is followed: there it is as [`Never`](Self::Never).
    Inside,
    /// Any that lead to what has the same owner as the link itself, each by itself where one leads
    /// to another: where several people keep files side by side, none can publish another's.
    SameOwner,
    /// None.
    Never,
    /// Any. Whoever can make a link there can publish any file that this process can read.
    Any,
}

/// The folder; opened once, so that it stays the same even if its path is renamed.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    symlinks: Symlinks,
    fd: OnceLock<OwnedFd>,
    /// The kernel has no `openat2`, so it is not tried again.
    openat2_unavailable: AtomicBool,
    /// [`DESCRIPTORS`].
    descriptors: &'static str,
    cached_lookup: CachedLookupSupport,
}

/// What was opened: a regular file or a folder.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// As it was before it was opened.
    pub(super) meta: Metadata,
}

impl Root {
    /// Opens the folder if it exists; otherwise each [`open`](Self::open) tries again.
    pub(super) fn new(path: PathBuf, symlinks: Symlinks) -> Self {
        let (fd, openat2_unavailable) = (OnceLock::new(), AtomicBool::new(false));
        let (descriptors, cached_lookup) = (DESCRIPTORS, CachedLookupSupport::default());
        let root = Self { path, symlinks, fd, openat2_unavailable, descriptors, cached_lookup };
        if let Err(error) = root.fd() {
            tracing::warn!(path = %root.path.display(), %error, "cannot open the folder; each request tries again");
        }
        root
    }

    /// The same open folder under another rule.
    #[cfg(test)]
    fn with_symlinks(&self, symlinks: Symlinks) -> Self {
        let root = Self::new(self.path.clone(), symlinks);
        match self.fd.get().map(OwnedFd::try_clone) {
            Some(Ok(fd)) => Self { fd: fd.into(), ..root },
            _ => root,
        }
    }

    /// Opens what `path` names below the root; `None` if there is nothing there to serve.
    ///
    /// Blocks on the disk. `path` is relative, its parts are separated by single slashes.
    ///
    /// # Errors
    /// If the root itself cannot be opened, and where the fault is ours, not the path's: out of
    /// descriptors or memory, a failing disk.
    pub(super) fn open(&self, path: &str) -> io::Result<Option<Opened>> {
        let root = self.fd()?;
        self.cached_lookup.probe(root);
        let mut opened = Err(Errno::AGAIN);
        for _ in 0..RACES {
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
        let held = File::from(self.find(root, path, OPEN_PATH)?);
        let meta = servable_metadata(&held)?;
        let by_descriptor = format!("{}/{}", self.descriptors, held.as_raw_fd());
        match openat(CWD, by_descriptor, READ, Mode::empty()) {
            Ok(fd) => Ok(Opened { file: fd.into(), meta }),
            // It may not be read; or there is no /proc, or not for us: then by its path again.
            Err(Errno::NOENT | Errno::ACCESS) => {
                let file = File::from(self.find(root, path, READ_BY_PATH)?);
                let now = servable_metadata(&file)?;
                let same = (now.dev(), now.ino()) == (meta.dev(), meta.ino());
                if same { Ok(Opened { file, meta: now }) } else { Err(Errno::AGAIN) }
            }
            Err(errno) => Err(errno),
        }
    }

    /// Opens what `path` leads to in the way of `how`, as far as the rule for links lets it.
    fn find(&self, root: BorrowedFd<'_>, path: &str, how: OFlags) -> Result<OwnedFd, Errno> {
        if path == "." || self.symlinks == Symlinks::Any {
            openat(root, path, how, Mode::empty())
        } else if self.symlinks == Symlinks::SameOwner {
            owners::open_by_owner(root, path, how)
        } else if self.symlinks == Symlinks::Never {
            open_by_walk(root, path, how)
        } else {
            self.find_inside(root, path, how, open_beneath)
        }
    }

    /// By `openat2`, or as if there were no links where the kernel has none.
    fn find_inside(
        &self,
        root: BorrowedFd<'_>,
        path: &str,
        how: OFlags,
        beneath: impl FnOnce(BorrowedFd<'_>, &str, OFlags) -> Result<OwnedFd, Errno>,
    ) -> Result<OwnedFd, Errno> {
        if self.openat2_unavailable.load(Relaxed) {
            return open_by_walk(root, path, how);
        }
        match beneath(root, path, how) {
            Err(Errno::NOSYS) => {
                self.openat2_unavailable.store(true, Relaxed);
                open_by_walk(root, path, how)
            }
            // A sandbox's filter says EPERM; so may a file, so it is not held for the rule.
            Err(Errno::PERM) => open_by_walk(root, path, how),
            other => other,
        }
    }

    /// What is shown of a name in `folder`, whose path that is: of a link, what it leads to.
    ///
    /// `None` for what is gone meanwhile, what is neither file nor folder, and links that are not
    /// followed or lead nowhere.
    fn item(&self, folder: &File, path: &str, name: &CStr) -> Option<Item> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
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
            folder: kind == FileType::Directory,
            size,
            modified: SystemTime::UNIX_EPOCH.checked_add(since),
        })
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let fd = openat(CWD, &self.path, OPEN_DIR_PATH, Mode::empty())?;
        Ok(self.fd.get_or_init(|| fd).as_fd())
    }
}

impl Backend for Root {
    fn lookup(&self, path: &str) -> io::Result<Found> {
        Ok(match self.open(path)? {
            None => Found::Missing,
            Some(Opened { meta, .. }) if meta.is_dir() => Found::Folder,
            Some(Opened { file, meta }) => {
                source::source(file, meta)?.map_or(Found::Missing, Found::File)
            }
        })
    }

    fn try_lookup_cached(&self, path: &str) -> Option<Found> {
        Self::try_lookup_cached(self, path)
    }

    fn list(&self, path: &str, each: &mut dyn FnMut(Item) -> ControlFlow<()>) -> io::Result<()> {
        let Some(Opened { file: folder, .. }) = self.open(path)? else { return Ok(()) };
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..")
                && let Some(item) = self.item(&folder, path, name)
                && each(item).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

/// Returns the metadata of a regular file or a folder; `NOENT` for a device, a FIFO or a socket.
fn servable_metadata(file: &File) -> Result<Metadata, Errno> {
    let meta = file.metadata().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    if meta.is_file() || meta.is_dir() { Ok(meta) } else { Err(Errno::NOENT) }
}

/// Says `AGAIN` where a race against a rename may have been lost, anywhere in the system.
fn open_beneath(root: BorrowedFd<'_>, path: &str, how: OFlags) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
    openat2(root, path, how, Mode::empty(), within)
}

/// Opens a path one name at a time, through no link at all: one at the end is held itself, if at all.
fn open_by_walk(root: BorrowedFd<'_>, path: &str, last: OFlags) -> Result<OwnedFd, Errno> {
    // The length of a path is bounded by the head of a request, and so is the number of steps.
    let mut held: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (name, below) = rest.split_once('/').map_or((rest, None), |(n, b)| (n, Some(b)));
        if matches!(name, "" | "." | "..") {
            return Err(Errno::NOENT);
        }
        let at = held.as_ref().map_or(root, AsFd::as_fd);
        let how = if below.is_some() { OPEN_DIR_PATH } else { last };
        let next = openat(at, name, how.union(OFlags::NOFOLLOW), Mode::empty())?;
        let Some(below) = below else { return Ok(next) };
        held = Some(next);
        rest = below;
    }
}

/// Does this say that there is nothing of that name for us to serve?
///
/// What may not be read counts as absent, so that an answer does not tell what exists.
fn is_absence(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP           // a symbolic link that may not be followed, or too many
            | Errno::XDEV           // a symbolic link that leads out of the root
            | Errno::ACCESS
            | Errno::PERM
            | Errno::NAMETOOLONG
            | Errno::INVAL          // a NUL in the name
            | Errno::NXIO           // a socket, or a device without its driver
            | Errno::NODEV
    )
}

#[cfg(test)]
mod tests;
