//! The files of a store: a folder with 256 folders, in them a head and a content for each object.
//!
//! The content is complete and on disk before its head gets its name, so an object whose head has a name is whole.
//! What else is there is removed at the next start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::head::MAX_HEAD;

/// The name of the file that keeps other processes out.
const LOCK: &str = "lock";

/// The folder of a store, locked for this process.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    #[expect(dead_code, reason = "unlocked when it is closed")]
    lock: File,
}

impl Files {
    /// Opens or creates the folder.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let context = |error: io::Error, what: &str| {
            io::Error::new(error.kind(), format!("{what} {}: {error}", root.display()))
        };
        let create = || fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        create().map_err(|e| context(e, "cannot create the cache folder"))?;
        let path = root.join(LOCK);
        let is_there = path.exists();
        let create =
            || OpenOptions::new().write(true).create(true).mode(0o600).truncate(false).open(&path);
        if !is_there {
            create().map_err(|e| context(e, "cannot write to the cache folder"))?;
        }
        // Not for writing, so that the file system may become read-only.
        let lock = File::open(&path).map_err(|e| context(e, "cannot read the cache folder"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| context(e.into(), "another process uses the cache folder"))?;
        for i in 0..=u8::MAX {
            match fs::DirBuilder::new().mode(0o700).create(root.join(format!("{i:02x}"))) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(context(e, "cannot create a folder in"));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(Self { root: root.to_owned(), lock })
    }

    fn path(&self, id: u64, extension: &str) -> PathBuf {
        self.root.join(format!("{:02x}/{id:016x}.{extension}", id % 256))
    }

    /// Writes the content of an object, and waits until it is on disk.
    pub(super) fn write_content(&self, id: u64, content: &[u8]) -> io::Result<()> {
        self.write(&self.path(id, "content"), content, true)
    }

    /// Writes a head without giving it its name.
    pub(super) fn write_head(&self, id: u64, head: &[u8]) -> io::Result<()> {
        self.write(&self.path(id, "new"), head, false)
    }

    /// Removes a head that was written and has no name.
    pub(super) fn discard_head(&self, id: u64) {
        let _ = fs::remove_file(self.path(id, "new"));
    }

    /// Gives the written head its name: the object is stored from now on.
    pub(super) fn commit(&self, id: u64) -> io::Result<()> {
        fs::rename(self.path(id, "new"), self.path(id, "head"))
    }

    fn write(&self, path: &Path, bytes: &[u8], is_new: bool) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(libc_nofollow());
        if is_new {
            options.create_new(true)
        } else {
            options.create(true).truncate(true)
        };
        let mut file = options.open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }

    /// Removes an object, the head first.
    pub(super) fn remove(&self, id: u64) {
        for extension in ["head", "new", "content"] {
            let _ = fs::remove_file(self.path(id, extension));
        }
    }

    /// Reads a head.
    pub(super) fn read_head(&self, id: u64) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let file = File::open(self.path(id, "head"))?;
        file.take(MAX_HEAD as u64 + 1).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Opens a content, if it has this length.
    pub(super) fn open_content(&self, id: u64, len: u64) -> io::Result<File> {
        let file = File::open(self.path(id, "content"))?;
        if file.metadata()?.len() == len {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the content has another length"))
        }
    }

    /// Calls `f` with the id of each object of one of the 256 folders. If that returns `false`, and with all that is no
    /// object, the files are removed.
    pub(super) fn scan(&self, folder: u8, mut f: impl FnMut(u64) -> bool) -> io::Result<()> {
        let folder = self.root.join(format!("{folder:02x}"));
        let mut others = Vec::new();
        let mut kept = std::collections::HashSet::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let id = u64::from_str_radix(stem, 16).ok().filter(|id| self.path(*id, "head") == path);
            match id {
                Some(id) if f(id) => drop(kept.insert(id)),
                _ => others.push(path),
            }
        }
        for path in others {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let id = u64::from_str_radix(stem, 16).ok();
            let is_content = path.extension().is_some_and(|extension| extension == "content");
            if !(is_content && id.is_some_and(|id| kept.contains(&id))) {
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

/// `O_NOFOLLOW`: a link in place of a file is not written to.
fn libc_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}
