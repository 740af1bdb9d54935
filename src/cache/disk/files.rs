//! The files of a store: a directory with 256 subdirectories, which hold a head and a content file for each object.
//!
//! A head file is renamed to its final name after the content is complete and on disk. So an object whose head has its final
//! name is complete. The scan at the next start removes all other files.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::head::MAX_HEAD;

/// The name of the file whose lock excludes other processes.
const LOCK: &str = "lock";

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
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    durability: Durability,
    #[expect(dead_code, reason = "closing the file releases the lock")]
    lock: File,
}

impl Files {
    /// Opens the directory, and creates it if it is missing.
    pub(super) fn open(root: &Path, durability: Durability) -> io::Result<Self> {
        let context = |error: io::Error, what: &str| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", root.display()))
        };
        let create = || fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        create().map_err(|e| context(e, "cannot create the cache directory"))?;
        let path = root.join(LOCK);
        let exists = path.exists();
        let create =
            || OpenOptions::new().write(true).create(true).mode(0o600).truncate(false).open(&path);
        if !exists {
            create().map_err(|e| context(e, "cannot write to the cache directory"))?;
        }
        // Opened for reading: a file that is open for writing prevents a remount as read-only.
        let lock = File::open(&path).map_err(|e| context(e, "cannot read the cache directory"))?;
        // The kernel releases the lock when the process ends, however it ends.
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |error| match error {
                rustix::io::Errno::WOULDBLOCK => {
                    let message = "another process or layer uses the cache directory";
                    let advice = "each needs a directory of its own";
                    let text = format!("{message} {}: {advice}", root.display());
                    io::Error::new(io::ErrorKind::ResourceBusy, text)
                }
                // For example a network file system without locks.
                error => context(error.into(), "cannot lock the cache directory"),
            },
        )?;
        for i in 0..=u8::MAX {
            match fs::DirBuilder::new().mode(0o700).create(root.join(format!("{i:02x}"))) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(context(e, "cannot create a directory in"));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let files = Self { root: root.to_owned(), durability, lock };
        files.check_boot().map_err(|e| context(e, "cannot write to the cache directory"))?;
        Ok(files)
    }

    /// Removes all objects if they were written with [`Durability::Crash`] before the last start of the system.
    fn check_boot(&self) -> io::Result<()> {
        let path = self.root.join(BOOT);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let written_in = fs::read_to_string(&path).ok();
        if written_in.as_ref().is_some_and(|written_in| *written_in != boot || boot.is_empty()) {
            self.empty()?;
        }
        match (self.durability, written_in) {
            (Durability::PowerLoss, None) => Ok(()),
            (Durability::PowerLoss, Some(_)) => fs::remove_file(path),
            (Durability::Crash, _) => fs::write(path, boot),
        }
    }

    /// Removes all objects.
    pub(super) fn empty(&self) -> io::Result<()> {
        (0..=u8::MAX).try_for_each(|dir| self.scan(dir, || false, |_| false, |_| false))
    }

    fn path(&self, id: u64, extension: &str) -> PathBuf {
        self.root.join(format!("{:02x}/{id:016x}.{extension}", id % 256))
    }

    /// Writes the content of an object.
    pub(super) fn write_content(&self, id: u64, content: &[u8]) -> io::Result<()> {
        let file = self.create(&self.path(id, "content"), true)?;
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
            None => Arc::new(self.create(&self.path(id, "content"), true)?),
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

    /// Writes a head to a temporary name.
    pub(super) fn write_head(&self, id: u64, head: &[u8]) -> io::Result<()> {
        // Not synchronized: the checksum reveals a head that power loss has torn.
        self.create(&self.path(id, "new"), false)?.write_all(head)
    }

    /// Removes a head that was written and not committed.
    pub(super) fn discard_head(&self, id: u64) {
        let _ = fs::remove_file(self.path(id, "new"));
    }

    /// Renames the written head to its final name, which stores the object.
    pub(super) fn commit(&self, id: u64) -> io::Result<()> {
        fs::rename(self.path(id, "new"), self.path(id, "head"))
    }

    fn create(&self, path: &Path, is_new: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(nofollow());
        if is_new {
            options.create_new(true)
        } else {
            options.create(true).truncate(true)
        };
        options.open(path)
    }

    fn finish(&self, mut file: File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)?;
        self.sync_content(&file)
    }

    /// Removes an object, the head first. Returns whether the head is removed, so that the object does not come back.
    pub(super) fn remove(&self, id: u64) -> bool {
        let is_removed = |extension| match fs::remove_file(self.path(id, extension)) {
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
        let file = File::open(self.path(id, "head"))?;
        file.take(MAX_HEAD as u64 + 1).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Opens a content.
    ///
    /// # Errors
    /// If it does not have this length.
    pub(super) fn open_content(&self, id: u64, len: u64) -> io::Result<File> {
        let file = File::open(self.path(id, "content"))?;
        if file.metadata()?.len() == len {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the content has another length"))
        }
    }

    /// Returns whether the content of an object has this length.
    pub(super) fn has_content(&self, id: u64, len: u64) -> bool {
        fs::metadata(self.path(id, "content")).is_ok_and(|m| m.is_file() && m.len() == len)
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
        let dir = self.root.join(format!("{dir:02x}"));
        let mut others = Vec::new();
        let (mut kept, mut result) = (HashSet::new(), Ok(()));
        for entry in fs::read_dir(&dir)? {
            if is_closed() {
                return Ok(());
            }
            let path = entry?.path();
            match self.id_of(&path, "head") {
                Some(id) if add(id) => drop(kept.insert(id)),
                Some(_) => match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => result = Err(error),
                    Ok(()) | Err(_) => {}
                },
                None => others.push(path),
            }
        }
        for path in others {
            let id = self.id_of(&path, "content").or_else(|| self.id_of(&path, "new"));
            // An object may have been committed since the directory was read.
            let is_needed =
                |id| kept.contains(&id) || is_being_written(id) || self.path(id, "head").exists();
            if !id.is_some_and(is_needed) {
                let _ = fs::remove_file(path);
            }
        }
        result
    }

    /// Returns the id in the path of a file with this extension.
    fn id_of(&self, path: &Path, extension: &str) -> Option<u64> {
        let stem = path.file_stem()?.to_str()?;
        u64::from_str_radix(stem, 16).ok().filter(|id| self.path(*id, extension) == path)
    }
}

/// `O_NOFOLLOW`, so that a symbolic link in place of a file is not followed.
fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}
