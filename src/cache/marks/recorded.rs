//! The marks of a store on disk, which are recorded in its journal until a sweep has applied them.

use std::io;

use super::{
    super::{
        disk::{Journal, Record},
        store::Purge,
    },
    Level, Marks, Scope, Set,
};

/// Called with each record of earlier processes.
pub(in crate::cache) type Restore<'a> = &'a mut dyn FnMut(Record<'_>);

/// The result of [`Marks::sync_removals`], and a proof that it was called: a record is removed only after the files that it
/// concerns, and both are on disk.
#[must_use]
pub(in crate::cache) struct RemovalsSynced {
    /// Whether the disk has not failed. If it has, the journal keeps all records.
    pub(in crate::cache) is_synced: bool,
}

impl Marks {
    /// Creates marks with the records of a journal. They apply to objects that the scan has not found yet, so they are
    /// [held](Self::hold).
    pub(in crate::cache) fn open(
        open: impl FnOnce(Restore<'_>) -> io::Result<Journal>,
    ) -> io::Result<Self> {
        let mut marks = Self::default();
        let mut restore = |record: Record<'_>| {
            let Record { scope, purge, revision, at } = record;
            marks.add(scope, purge, revision, at);
        };
        let journal = open(&mut restore)?;
        marks.journal = Some(journal);
        let newest = marks.newest().unwrap_or_default();
        let mut set = marks.write();
        // No sweep is needed: the scan applies the marks to each object.
        (set.swept, set.is_held) = (newest, true);
        drop(set);
        Ok(marks)
    }

    /// Returns the first id of this process.
    pub(in crate::cache) fn first_id(&self) -> u64 {
        self.journal.as_ref().map_or(0, Journal::first_id)
    }

    /// Records a mark. After this returns, the mark survives a crash.
    pub(in crate::cache) fn record(&self, record: &Record<'_>) {
        if let Some(journal) = &self.journal {
            journal.append(record, || self.read().encode());
        }
    }

    /// Records the invalidation of a key whose files are removed later. Returns `false` if they must be removed before the
    /// caller returns.
    pub(in crate::cache) fn begin(&self, record: &Record<'_>) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.begin(record, || self.read().encode()))
    }

    /// Removes the record of a key's invalidation, unless the disk has failed.
    pub(in crate::cache) fn end(&self, revision: u64, is_settled: bool, _: &RemovalsSynced) {
        if let Some(journal) = &self.journal {
            journal.end(revision);
        }
        self.clear_journal(is_settled);
    }

    /// Ends `n` invalidations of keys for which [`begin`](Self::begin) has returned `false`.
    pub(in crate::cache) fn end_applied(&self, n: usize, _: &RemovalsSynced) {
        if let Some(journal) = self.journal.as_ref().filter(|_| n > 0) {
            journal.end_applied(n);
            journal.clear(|| self.is_done());
        }
    }

    /// Keeps all records for the next process, since the disk has failed.
    pub(in crate::cache) fn fail(&self) {
        self.clear_journal(false);
    }

    /// Waits until the marks are on disk.
    pub(in crate::cache) fn sync(&self) {
        self.journal.iter().for_each(Journal::sync);
    }

    /// Waits until the removals of files are on disk.
    pub(in crate::cache) fn sync_removals(&self) -> RemovalsSynced {
        RemovalsSynced { is_synced: self.journal.as_ref().is_none_or(Journal::sync_removals) }
    }

    pub(super) fn clear_journal(&self, is_settled: bool) {
        let Some(journal) = &self.journal else { return };
        if !is_settled {
            journal.fail();
        }
        journal.clear(|| self.is_done());
    }

    /// Returns whether a sweep or the scan has applied all marks.
    fn is_done(&self) -> bool {
        let set = self.read();
        !set.is_held && set.is_empty()
    }
}

impl Set {
    fn levels(&self) -> impl Iterator<Item = (Scope<'_>, Level)> {
        let prefixes = self.prefixes.iter().map(|(prefix, level)| (Scope::Prefix(prefix), *level));
        let groups = self.groups.iter().flat_map(|(group, levels)| {
            let scope = move |origin| Scope::Group { group, origin };
            levels.iter().map(move |(origin, level)| (scope(origin), *level))
        });
        let keys = self.keys.iter().map(|(key, level)| (Scope::Key(key), *level));
        prefixes.chain(groups).chain(keys).chain([(Scope::All, self.all)])
    }

    fn is_empty(&self) -> bool {
        self.levels().all(|(_, level)| level.newest() == 0)
    }

    /// Returns the records of all marks.
    fn encode(&self) -> Vec<Vec<u8>> {
        let of = |(scope, level): (Scope<'_>, Level)| {
            let hard =
                Record { scope, purge: Purge::Hard, revision: level.hard, at: level.soft_at };
            let soft = Record { purge: Purge::Soft, revision: level.soft, ..hard };
            [hard, soft]
                .into_iter()
                .filter(|record| record.revision > 0)
                .map(|r| r.encode())
                .collect::<Vec<_>>()
        };
        self.levels().flat_map(of).collect()
    }
}
