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
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::OFlags;

#[cfg(any(fuzzing, test))]
pub(in crate::cache) use self::fuzzing::{is_stable, with_checksums};
pub(in crate::cache) use self::record::Record;
use self::record::{HEADER, ID_BITS, MAX_SESSION};
use super::files::Files;

/// The length of the journal, 1 MiB: about ten thousand invalidations. If more are pending, a crash invalidates everything.
pub(in crate::cache) const JOURNAL_LEN: usize = 1 << 20;

/// The name of the journal's file.
const NAME: &str = "marks";

/// The maximum number of invalidations of single keys that wait for the disk, 4,096.
pub(in crate::cache) const MAX_PENDING: usize = 4096;

/// The bytes after the last record.
const END: [u8; 4] = [0; 4];

pub(in crate::cache) struct Journal {
    /// The file is open only during a write, so that the file system can be remounted read-only.
    files: Arc<Files>,
    /// The first id of this process. The ids of earlier processes are smaller.
    first_id: u64,
    state: Mutex<State>,
}

struct State {
    len: usize,
    /// The records of single keys that have not been applied to the files yet, by revision.
    pending: HashMap<u64, Vec<u8>>,
    /// The number of single keys beyond that, which were applied and are not synchronized yet. Their records are in the file only.
    applied: usize,
    /// Whether an invalidation could not be applied to the files. The records are then kept.
    has_failed: bool,
    /// The record that invalidates everything, if one could not be written, for example for lack of a file descriptor. It is
    /// written in place of that one as soon as possible.
    missing: Option<Vec<u8>>,
}

impl Journal {
    /// Opens the journal of a directory and starts a session. Calls `restore` with each record of earlier sessions.
    pub(super) fn open(
        files: &Arc<Files>,
        mut restore: impl FnMut(Record<'_>),
    ) -> io::Result<Self> {
        let bytes = match files.read(NAME) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            // It is there, and may be readable at the next start: the directory must not be emptied.
            bytes => bytes?,
        };
        let before = record::decode(&bytes).filter(|b| b.session < MAX_SESSION);
        let (session, len) = match &before {
            Some(before) => (before.session + 1, before.len),
            None => {
                files.empty()?;
                create(files)?;
                (1, HEADER)
            }
        };
        let state =
            State { len, pending: HashMap::new(), applied: 0, has_failed: false, missing: None };
        let first_id = session << ID_BITS;
        let journal = Self { files: files.clone(), first_id, state: Mutex::new(state) };
        journal.write(&record::header(session), 0)?;
        journal.sync_data()?;
        before.into_iter().flat_map(|before| before.records).for_each(&mut restore);
        Ok(journal)
    }

    pub(in crate::cache) fn first_id(&self) -> u64 {
        self.first_id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The length is updated only after a write.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.files.open_file(NAME, OFlags::WRONLY)?.write_all_at(bytes, at)
    }

    /// Waits until the file is on disk, if the durability requires it.
    fn sync_data(&self) -> io::Result<()> {
        self.files.sync_content(&self.files.open_file(NAME, OFlags::RDONLY)?)
    }

    /// Records an invalidation. If the journal is full, it is rewritten with the records that `live` returns; if these are too
    /// many, or after a [failure](Self::fail), with one that invalidates everything.
    pub(in crate::cache) fn append(
        &self,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        self.append_to(&mut self.lock(), record, live);
    }

    /// Records the invalidation of a single key, until [`end`](Self::end) is called. Returns `false` if too many are pending,
    /// so that the caller must apply this one before it returns, and call [`end_applied`](Self::end_applied) later.
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
        } else {
            state.applied += 1;
        }
        is_pending
    }

    fn append_to(
        &self,
        state: &mut State,
        record: &Record<'_>,
        live: impl FnOnce() -> Vec<Vec<u8>>,
    ) {
        let (bytes, everything) = (record.encode(), record.of_everything().encode());
        let is_full = state.len + bytes.len() + END.len() > JOURNAL_LEN;
        if !is_full && state.missing.is_none() {
            match self.write(&[&*bytes, &END].concat(), state.len as u64) {
                Ok(()) => state.len += bytes.len(),
                Err(_) => self.rewrite(state, &everything, everything.clone()),
            }
        } else if state.has_failed || state.applied > 0 {
            // The record of an invalidation that is not on disk is in the file only.
            self.rewrite(state, &everything, everything.clone());
        } else {
            let live = live();
            let records = live.iter().chain(state.pending.values()).chain([&bytes]);
            let records = records.flatten().copied().collect::<Vec<_>>();
            self.rewrite(state, &records, everything);
        }
    }

    /// Removes the pending record of a key, whose invalidation has been applied to the files.
    pub(in crate::cache) fn end(&self, revision: u64) {
        self.lock().pending.remove(&revision);
    }

    /// Notes that the removal of `n` keys beyond the pending ones is on disk.
    pub(in crate::cache) fn end_applied(&self, n: usize) {
        self.lock().applied -= n;
    }

    /// Keeps the records, since an invalidation could not be applied to the files.
    pub(in crate::cache) fn fail(&self) {
        self.lock().has_failed = true;
    }

    /// Waits until the records are on disk, if the durability requires it.
    pub(in crate::cache) fn sync(&self) {
        if let Err(error) = self.sync_data() {
            tracing::warn!(%error, "cannot record an invalidation in the cache directory");
        }
    }

    /// Waits until removals of files are on disk, if the durability requires it. Returns `false` if the disk has failed: the
    /// records are kept, since power loss may bring the files back.
    pub(in crate::cache) fn sync_removals(&self) -> bool {
        let is_synced = !self.files.survives_power_loss() || self.files.sync().is_ok();
        if !is_synced {
            self.fail();
            // The records are all that is left of the invalidations.
            self.sync();
        }
        is_synced
    }

    /// Removes all records, if no key is pending and `is_done` returns `true` for the others.
    pub(in crate::cache) fn clear(&self, is_done: impl FnOnce() -> bool) {
        let mut state = self.lock();
        let is_pending = !state.pending.is_empty() || state.applied > 0;
        if !state.has_failed && !is_pending && is_done() {
            state.missing = None;
            if state.len != HEADER && self.write(&END, HEADER as u64).is_ok() {
                state.len = HEADER;
            }
        } else if let Some(everything) = state.missing.clone() {
            self.rewrite(&mut state, &everything, everything.clone());
        }
    }

    /// Replaces all records. If they are too long, by one that invalidates everything.
    fn rewrite(&self, state: &mut State, records: &[u8], everything: Vec<u8>) {
        let fits = HEADER + records.len() + END.len() <= JOURNAL_LEN;
        let records = if fits { records } else { &everything };
        match self.write(&[records, &END].concat(), HEADER as u64) {
            Ok(()) => (state.len, state.missing) = (HEADER + records.len(), None),
            Err(error) => {
                if state.missing.replace(everything).is_none() {
                    tracing::error!(%error, "cannot record an invalidation in the cache directory: until it can, none survives a crash");
                }
            }
        }
    }
}

/// Creates an empty journal. The complete file is renamed to its name.
fn create(files: &Files) -> io::Result<()> {
    const NEW: &str = "marks.new";
    let mut bytes = vec![0; JOURNAL_LEN];
    bytes[..HEADER].copy_from_slice(&record::header(0));
    let file = files.open_file(NEW, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
    file.write_all_at(&bytes, 0)?;
    files.sync_content(&file)?;
    files.rename(NEW, NAME)
}

#[cfg(test)]
mod tests;
