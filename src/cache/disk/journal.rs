//! `Journal`: the file of the invalidations that are not carried out yet, so that they count after a crash too.
//!
//! It has a fixed length, so that a full disk can record them. A record is written by one call, before the invalidation
//! returns. A journal that is missing or damaged has the directory emptied: what was invalidated is then unknown.

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

/// The length of the journal, 1 MiB: about ten thousand invalidations. With more at a time, a crash invalidates everything.
pub(in crate::cache) const JOURNAL_LEN: usize = 1 << 20;

/// The name of its file.
const NAME: &str = "marks";

/// The invalidations of single keys that may wait for the disk, 4,096.
const MAX_PENDING: usize = 4096;

/// The end of the records.
const END: [u8; 4] = [0; 4];

pub(in crate::cache) struct Journal {
    /// Of the file, which is open while it is written only, so that the file system may become read-only.
    path: PathBuf,
    /// For `syncfs`.
    root: File,
    durability: Durability,
    /// The first id of this process. All earlier ones are smaller.
    first_id: u64,
    state: Mutex<State>,
}

struct State {
    len: usize,
    /// The records of single keys that are not carried out yet, by revision.
    pending: HashMap<u64, Vec<u8>>,
    /// An invalidation could not be carried out, so the records stay.
    has_failed: bool,
}

impl Journal {
    /// Opens the journal of a directory and begins a session. Calls `restore` with each record of earlier ones.
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
        // The length is that of what was written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(bytes, at)
    }

    /// Records an invalidation. If there is no room, the journal is written anew with what `live` returns; if that is too
    /// much, a crash invalidates everything.
    pub(in crate::cache) fn append(
        &self,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        self.append_to(&mut self.lock(), record, live);
    }

    /// Records the invalidation of a single key, until [`end`](Self::end) is called. Returns `false` if so many are
    /// recorded that this one has to be carried out at once.
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

    /// Forgets the record of a key whose invalidation is carried out.
    pub(in crate::cache) fn end(&self, revision: u64) {
        self.lock().pending.remove(&revision);
    }

    /// Keeps the records, since an invalidation could not be carried out.
    pub(in crate::cache) fn fail(&self) {
        self.lock().has_failed = true;
    }

    /// Waits until the records are on disk, as far as that is demanded.
    pub(in crate::cache) fn sync(&self) {
        if self.durability == Durability::PowerLoss
            && let Err(error) = File::open(&self.path).and_then(|file| file.sync_data())
        {
            tracing::warn!(%error, "cannot record an invalidation in the cache directory");
        }
    }

    /// Waits until files are removed on disk too, as far as that is demanded.
    pub(in crate::cache) fn sync_removals(&self) {
        if self.durability == Durability::PowerLoss
            && let Err(error) = rustix::fs::syncfs(&self.root)
        {
            tracing::warn!(%error, "cannot carry out an invalidation in the cache directory");
            self.fail();
        }
    }

    /// Removes all records, if all are carried out: those of keys, and what `is_done` says of the others.
    pub(in crate::cache) fn clear(&self, is_done: impl FnOnce() -> bool) {
        let mut state = self.lock();
        let stays = state.len == HEADER || state.has_failed || !state.pending.is_empty();
        if !stays && is_done() && self.write(&END, HEADER as u64).is_ok() {
            state.len = HEADER;
        }
    }

    /// Replaces all records; by one that invalidates everything if they are too long.
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

/// Creates an empty journal. Its file gets its name when it is complete.
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
