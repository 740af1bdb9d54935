//! The files of a store: a directory with 256 subdirectories, which hold a head and a content file for each object.
//!
//! A head file is renamed to its final name after the content is complete and on disk. So an object whose head has its final
//! name is complete. The scan at the next start removes all other files.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, FileExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use super::head::MAX_HEAD;

/// The name of the file with the boot id of the system, if objects were written with [`Durability::Crash`].
const BOOT: &str = "boot";

/// The events that objects in a directory survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The end of the process, even by SIGKILL, and power loss: the content is synchronized to the disk (`fdatasync`) before
    /// its object is stored.
    #[default]
    PowerLoss,
    /// The end of the process only: nothing is synchronized. After a restart of the system all objects are removed, since
    /// their files may be torn.
    Crash,
}

/// The directory of a store, locked for this process.
///
/// All files are opened relative to the directory that was locked, not by its path: another directory of this name, after
/// the first one was removed or renamed, belongs to another process.
#[derive(Debug)]
pub(super) struct Files {
    /// For messages.
    path: PathBuf,
    /// Its lock excludes other processes. The kernel releases it when the process ends, however it ends. Open for reading: a
    /// file that is open for writing prevents a remount as read-only.
    root: File,
    /// Locked too: a network file system may lock a directory for one machine alone.
    _lock: OwnedFd,
    durability: Durability,
    /// Whether a synchronization has failed. Locked during each.
    has_lost_writes: Mutex<bool>,
    /// Errors that tests inject.
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// Errors that tests inject.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) open: Fault,
    pub(super) sync: Fault,
}

/// The error of an operation.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Fault {
    /// The number of the error (`errno`); 0 for none.
    pub(super) errno: std::sync::atomic::AtomicI32,
    /// How often it was returned.
    pub(super) count: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Fault {
    fn check(&self) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let errno = self.errno.load(Relaxed);
        if errno == 0 {
            return Ok(());
        }
        self.count.fetch_add(1, Relaxed);
        Err(io::Error::from_raw_os_error(errno))
    }
}

impl Files {
    /// Opens the directory, and creates it if it is missing.
    pub(super) fn open(path: &Path, durability: Durability) -> io::Result<Self> {
        let context = |error: io::Error, what: &str| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
        };
        let create = || fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        create().map_err(|e| context(e, "cannot create the cache directory"))?;
        let root = File::open(path).map_err(|e| context(e, "cannot read the cache directory"))?;
        let cannot_lock = |error| match error {
            Errno::WOULDBLOCK => {
                let message = "another process or layer uses the cache directory";
                let advice = "each needs a directory of its own";
                let text = format!("{message} {}: {advice}", path.display());
                io::Error::new(io::ErrorKind::ResourceBusy, text)
            }
            // For example a network file system without locks.
            error => context(error.into(), "cannot lock the cache directory"),
        };
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&root, exclusive).map_err(cannot_lock)?;
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let lock = rustix::fs::openat(&root, "lock", flags, mode).map_err(cannot_lock)?;
        rustix::fs::flock(&lock, exclusive).map_err(cannot_lock)?;
        let files = Self {
            path: path.to_owned(),
            root,
            _lock: lock,
            durability,
            has_lost_writes: Mutex::default(),
            #[cfg(test)]
            faults: Faults::default(),
        };
        for dir in 0..=u8::MAX {
            files.create_dir(dir).map_err(|e| context(e, "cannot create a directory in"))?;
        }
        files.check_boot().map_err(|e| context(e, "cannot write to the cache directory"))?;
        Ok(files)
    }

    /// Creates one of the 256 subdirectories, unless it exists.
    fn create_dir(&self, dir: u8) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root, format!("{dir:02x}"), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file in the directory. A symbolic link in its place is not followed.
    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        #[cfg(test)]
        self.faults.open.check()?;
        let (flags, mode) = (flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR);
        let file = retry_on_intr(|| rustix::fs::openat(&self.root, name, flags, mode))?;
        Ok(file.into())
    }

    /// Reads a file in the directory.
    pub(super) fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(name, OFlags::RDONLY)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Renames a file in the directory.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
    }

    /// Removes a file in the directory.
    fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, name, AtFlags::empty())?)
    }

    /// Removes all objects if they were written with [`Durability::Crash`] before the last start of the system.
    fn check_boot(&self) -> io::Result<()> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = boot.into_bytes();
        let written_in = match self.read(BOOT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            written_in => Some(written_in?),
        };
        if written_in.as_ref().is_some_and(|written_in| *written_in != boot || boot.is_empty()) {
            self.empty()?;
        }
        match (self.durability, written_in) {
            (Durability::PowerLoss, None) => Ok(()),
            (Durability::PowerLoss, Some(_)) => self.unlink(BOOT),
            (Durability::Crash, _) => self.create(BOOT, OFlags::TRUNC)?.write_all(&boot),
        }
    }

    /// Removes all objects.
    pub(super) fn empty(&self) -> io::Result<()> {
        (0..=u8::MAX).try_for_each(|dir| self.scan(dir, || false, |_| false, |_| false))
    }

    /// Writes the content of an object.
    pub(super) fn write_content(&self, id: u64, content: &[u8]) -> io::Result<()> {
        let file = self.create_in_dir(id, "content", OFlags::EXCL)?;
        self.finish(file, content)
    }

    /// Writes pieces at offset `at`, the end of a content. Creates the content file if `file` is `None`.
    pub(super) fn append_content(
        &self,
        id: u64,
        file: Option<Arc<File>>,
        at: u64,
        pieces: &[Bytes],
    ) -> io::Result<Arc<File>> {
        let file = match file {
            Some(file) => file,
            None => Arc::new(self.create_in_dir(id, "content", OFlags::EXCL)?),
        };
        let mut at = at;
        for piece in pieces {
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(file)
    }

    /// Waits until a content is on disk, if the durability requires it.
    pub(super) fn sync_content(&self, file: &File) -> io::Result<()> {
        match self.durability {
            Durability::PowerLoss => file.sync_data(),
            Durability::Crash => Ok(()),
        }
    }

    /// Returns whether objects and invalidations must survive power loss.
    pub(super) fn survives_power_loss(&self) -> bool {
        self.durability == Durability::PowerLoss
    }

    /// Waits until removals of files are on disk.
    ///
    /// # Errors
    /// If the file system cannot write them, and always after that: the kernel reports an error once, to one of the callers, and
    /// does not repeat the write.
    pub(super) fn sync(&self) -> io::Result<()> {
        let mut has_lost_writes =
            self.has_lost_writes.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_lost_writes {
            return Err(io::Error::other("an earlier synchronization has failed"));
        }
        let result = self.sync_once();
        if let Err(error) = &result {
            *has_lost_writes = true;
            let path = self.path.display();
            tracing::error!(%error, "cannot synchronize the cache directory {path}: invalidations are kept in its journal, for the next start");
        }
        result
    }

    /// Lets synchronizations hang until the guard is dropped.
    #[cfg(test)]
    pub(super) fn hang(&self) -> std::sync::MutexGuard<'_, bool> {
        self.has_lost_writes.lock().unwrap()
    }

    fn sync_once(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.sync.check()?;
        Ok(rustix::fs::syncfs(&self.root)?)
    }

    /// Writes a head to a temporary name.
    pub(super) fn write_head(&self, id: u64, head: &[u8]) -> io::Result<()> {
        // Not synchronized: the checksum reveals a head that power loss has torn.
        self.create_in_dir(id, "new", OFlags::TRUNC)?.write_all(head)
    }

    /// Removes a head that was written and not committed.
    pub(super) fn discard_head(&self, id: u64) {
        let _ = self.unlink(&name(id, "new"));
    }

    /// Renames the written head to its final name, which stores the object.
    pub(super) fn commit(&self, id: u64) -> io::Result<()> {
        self.rename(&name(id, "new"), &name(id, "head"))
    }

    fn create(&self, name: &str, flags: OFlags) -> io::Result<File> {
        self.open_file(name, flags | OFlags::CREATE | OFlags::RDWR)
    }

    /// Creates a file of an object, and its subdirectory if a cleaner of old files has removed that.
    fn create_in_dir(&self, id: u64, extension: &str, flags: OFlags) -> io::Result<File> {
        let name = name(id, extension);
        match self.create(&name, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.create_dir(dir_of(id))?;
                self.create(&name, flags)
            }
            result => result,
        }
    }

    fn finish(&self, mut file: File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)?;
        self.sync_content(&file)
    }

    /// Removes an object, the head first. Returns whether the head is removed, so that the object does not come back.
    pub(super) fn remove(&self, id: u64) -> bool {
        let is_removed = |extension| match self.unlink(&name(id, extension)) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let is_gone = is_removed("head");
        let _ = (is_removed("new"), is_removed("content"));
        is_gone
    }

    /// Reads a head.
    pub(super) fn read_head(&self, id: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let file = self.open_file(&name(id, "head"), OFlags::RDONLY)?;
        file.take(MAX_HEAD as u64 + 1).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Opens a content.
    ///
    /// # Errors
    /// If it does not have this length.
    pub(super) fn open_content(&self, id: u64, len: u64) -> io::Result<File> {
        let file = self.open_file(&name(id, "content"), OFlags::RDONLY)?;
        if file.metadata()?.len() == len {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the content has another length"))
        }
    }

    /// Returns whether the content of an object has this length.
    pub(super) fn has_content(&self, id: u64, len: u64) -> bool {
        let stat = rustix::fs::statat(&self.root, name(id, "content"), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| {
            let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
            is_file && u64::try_from(stat.st_size).is_ok_and(|size| size == len)
        })
    }

    fn exists(&self, name: &str) -> bool {
        rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Calls `add` with the id of each object in one of the 256 subdirectories. Removes the files of an object for which
    /// `add` returns `false`, and all files that belong to no object, except those of objects that are being written.
    /// Returns early if `is_closed` returns `true`.
    ///
    /// # Errors
    /// If the subdirectory cannot be read, or a head cannot be removed.
    pub(super) fn scan(
        &self,
        dir: u8,
        is_closed: impl Fn() -> bool,
        add: impl Fn(u64) -> bool,
        is_being_written: impl Fn(u64) -> bool,
    ) -> io::Result<()> {
        let dir = format!("{dir:02x}");
        let mut others = Vec::new();
        let (mut kept, mut result) = (HashSet::new(), Ok(()));
        for entry in Dir::new(self.open_file(&dir, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
            if is_closed() {
                return Ok(());
            }
            let entry = entry?;
            // Names that are not UTF-8 are none of this store's.
            let Ok(file) = entry.file_name().to_str() else { continue };
            if matches!(file, "." | "..") {
                continue;
            }
            let path = format!("{dir}/{file}");
            match id_of(&path, "head") {
                Some(id) if add(id) => drop(kept.insert(id)),
                Some(_) => match self.unlink(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
                    Ok(()) | Err(_) => {}
                },
                None => others.push(path),
            }
        }
        for path in others {
            let id = id_of(&path, "content").or_else(|| id_of(&path, "new"));
            // An object may have been committed since the directory was read.
            let is_needed =
                |id| kept.contains(&id) || is_being_written(id) || self.exists(&name(id, "head"));
            if !id.is_some_and(is_needed) {
                let _ = self.unlink(&path);
            }
        }
        result
    }
}

/// Returns whether an error is due to the load of the system, and says nothing about the file: it has no more file
/// descriptors or memory.
pub(super) fn is_transient(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Returns the number of the subdirectory of an object.
fn dir_of(id: u64) -> u8 {
    id.to_le_bytes()[0]
}

/// Returns the name of a file of an object, relative to the directory.
fn name(id: u64, extension: &str) -> String {
    format!("{:02x}/{id:016x}.{extension}", dir_of(id))
}

/// Returns the id in the name of a file with this extension.
fn id_of(path: &str, extension: &str) -> Option<u64> {
    let (_, file) = path.split_once('/')?;
    let id = u64::from_str_radix(file.split_once('.')?.0, 16).ok()?;
    (name(id, extension) == path).then_some(id)
}
