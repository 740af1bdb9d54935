//! `Journal`: a file with the invalidations that have not been applied to the store yet, so that they survive a crash.
//!
//! The file has a fixed length, so that it can be written on a full disk. A record is written by one call, before the
//! invalidation returns. If the journal is missing or damaged, the directory is emptied, since it is unknown what was
//! invalidated.

#[cfg(any(fuzzing, test))]
mod fuzzing;
mod record;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(any(fuzzing, test))]
pub(in crate::cache) use self::fuzzing::{is_stable, with_checksums};
pub(in crate::cache) use self::record::Record;
use self::record::{HEADER, ID_BITS, MAX_SESSION};
use super::files::{Durability, Files};

/// The length of the journal, 1 MiB: about ten thousand invalidations. If more are pending, a crash invalidates everything.
pub(in crate::cache) const JOURNAL_LEN: usize = 1 << 20;

/// The name of the journal's file.
const NAME: &str = "marks";

/// The maximum number of invalidations of single keys that wait for the disk, 4,096.
const MAX_PENDING: usize = 4096;

/// The bytes after the last record.
const END: [u8; 4] = [0; 4];

pub(in crate::cache) struct Journal {
    /// The path of the file, which is open only during a write, so that the file system can be remounted read-only.
    path: PathBuf,
    /// For `syncfs`.
    root: File,
    durability: Durability,
    /// The first id of this process. The ids of earlier processes are smaller.
    first_id: u64,
    state: Mutex<State>,
}

struct State {
    len: usize,
    /// The records of single keys that have not been applied to the files yet, by revision.
    pending: HashMap<u64, Vec<u8>>,
    /// Whether an invalidation could not be applied to the files. The records are then kept.
    has_failed: bool,
}

impl Journal {
    /// Opens the journal of a directory and starts a session. Calls `restore` with each record of earlier sessions.
    pub(super) fn open(
        root: &Path,
        files: &Files,
        durability: Durability,
        mut restore: impl FnMut(Record<'_>),
    ) -> io::Result<Self> {
        let path = root.join(NAME);
        let bytes = fs::read(&path).unwrap_or_default();
        let before = record::decode(&bytes).filter(|b| b.session < MAX_SESSION);
        let (session, len) = match &before {
            Some(before) => (before.session + 1, before.len),
            None => {
                files.empty()?;
                create(root, &path, durability)?;
                (1, HEADER)
            }
        };
        let file = OpenOptions::new().write(true).open(&path)?;
        file.write_all_at(&record::header(session), 0)?;
        if durability == Durability::PowerLoss {
            file.sync_data()?;
        }
        drop(file);
        before.into_iter().flat_map(|before| before.records).for_each(&mut restore);
        let state = State { len, pending: HashMap::new(), has_failed: false };
        Ok(Self {
            path,
            root: File::open(root)?,
            durability,
            first_id: session << ID_BITS,
            state: Mutex::new(state),
        })
    }

    pub(in crate::cache) fn first_id(&self) -> u64 {
        self.first_id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The length is updated only after a write.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(bytes, at)
    }

    /// Records an invalidation. If the journal is full, it is rewritten with the records that `live` returns; if these are too
    /// many, with one that invalidates everything.
    pub(in crate::cache) fn append(
        &self,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        self.append_to(&mut self.lock(), record, live);
    }

    /// Records the invalidation of a single key, until [`end`](Self::end) is called. Returns `false` if too many are pending,
    /// so that the caller must apply this one before it returns.
    pub(in crate::cache) fn begin(
        &self,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) -> bool {
        let mut state = self.lock();
        self.append_to(&mut state, record, live);
        let is_pending = state.pending.len() < MAX_PENDING;
        if is_pending {
            state.pending.insert(record.revision, record.encode());
        }
        is_pending
    }

    fn append_to(
        &self,
        state: &mut State,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        let bytes = record.encode();
        if state.len + bytes.len() + END.len() > JOURNAL_LEN {
            let live = live();
            let records: Vec<_> =
                live.iter().chain(state.pending.values()).chain([&bytes]).collect();
            let records = records.into_iter().flatten().copied().collect::<Vec<_>>();
            self.rewrite(state, record, &records);
            return;
        }
        match self.write(&[&*bytes, &END].concat(), state.len as u64) {
            Ok(()) => state.len += bytes.len(),
            Err(error) => {
                tracing::warn!(%error, "cannot record an invalidation in the cache directory");
                self.rewrite(state, record, &record.of_everything().encode());
            }
        }
    }

    /// Removes the pending record of a key, whose invalidation has been applied to the files.
    pub(in crate::cache) fn end(&self, revision: u64) {
        self.lock().pending.remove(&revision);
    }

    /// Keeps the records, since an invalidation could not be applied to the files.
    pub(in crate::cache) fn fail(&self) {
        self.lock().has_failed = true;
    }

    /// Waits until the records are on disk, if the durability requires it.
    pub(in crate::cache) fn sync(&self) {
        if self.durability == Durability::PowerLoss
            && let Err(error) = File::open(&self.path).and_then(|file| file.sync_data())
        {
            tracing::warn!(%error, "cannot record an invalidation in the cache directory");
        }
    }

    /// Waits until removals of files are on disk, if the durability requires it.
    pub(in crate::cache) fn sync_removals(&self) {
        if self.durability == Durability::PowerLoss
            && let Err(error) = rustix::fs::syncfs(&self.root)
        {
            tracing::warn!(%error, "cannot synchronize the cache directory after an invalidation");
            self.fail();
        }
    }

    /// Removes all records, if no key is pending and `is_done` returns `true` for the others.
    pub(in crate::cache) fn clear(&self, is_done: impl FnOnce() -> bool) {
        let mut state = self.lock();
        let is_kept = state.len == HEADER || state.has_failed || !state.pending.is_empty();
        if !is_kept && is_done() && self.write(&END, HEADER as u64).is_ok() {
            state.len = HEADER;
        }
    }

    /// Replaces all records. If they are too long, by one that invalidates everything.
    fn rewrite(&self, state: &mut State, record: &Record<'_>, records: &[u8]) {
        let everything = record.of_everything().encode();
        let fits = HEADER + records.len() + END.len() <= JOURNAL_LEN;
        let records = if fits { records } else { &everything };
        match self.write(&[records, &END].concat(), HEADER as u64) {
            Ok(()) => state.len = HEADER + records.len(),
            Err(error) => {
                tracing::error!(%error, "cannot record an invalidation in the cache directory: it does not survive a crash");
            }
        }
    }
}

/// Creates an empty journal. The complete file is renamed to its name.
fn create(root: &Path, path: &Path, durability: Durability) -> io::Result<()> {
    let new = root.join("marks.new");
    let mut bytes = vec![0; JOURNAL_LEN];
    bytes[..HEADER].copy_from_slice(&record::header(0));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all_at(&bytes, 0)?;
    if durability == Durability::PowerLoss {
        file.sync_all()?;
    }
    fs::rename(new, path)
}

#[cfg(test)]
mod tests;
