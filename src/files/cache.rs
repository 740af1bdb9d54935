//! `Cache`: a bounded table of lookup results, so that a request for a cached file costs no system call.

mod admission;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::admission::Admission;
use super::entry::Entry;

/// Default maximum number of cached paths, existing and missing ones: 4,096. At about 1 KiB of headers each
/// that is 4 MiB.
pub(super) const MAX_ENTRIES: usize = 4096;

/// Default maximum number of bytes of content and paths, 16 MiB: 4,096 files of 4 KiB.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// Default maximum number of files that are kept open for `sendfile`, 256: a quarter of the 1,024 descriptors
/// of a process by default.
pub(super) const MAX_OPEN_FILES: usize = 256;

/// How long an entry is fresh by default: one second, in which a busy file is served thousands of times.
pub(super) const REVALIDATE_INTERVAL: Duration = Duration::from_secs(1);

/// How long after its last lookup an entry is served while lookups fail because descriptors, memory or
/// threads have run out: one minute. A reported change removes it earlier.
pub(super) const MAX_STALE: Duration = Duration::from_secs(60);

/// Number of batches of changes that are kept for lookups that began before them: at 100 batches a second,
/// those of a sixth of a second.
const MAX_RECENT_BATCHES: usize = 16;

/// Bounds of the table. They hold at any time, not only after an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) open_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: MAX_ENTRIES, bytes: MAX_BYTES, open_files: MAX_OPEN_FILES }
    }
}

/// Entries by normal path, shared by all clones of a service.
#[derive(Debug)]
pub(super) struct Cache {
    limits: Limits,
    revalidate: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// A lookup by SipHash would cost 2 % of the request of a small file. What collisions can cost is bounded by the
    /// number of entries.
    slots: HashMap<Box<str>, Slot, foldhash::fast::RandomState>,
    admission: Admission,
    /// Number of batches of changes that were reported.
    changes: u64,
    /// The most recent batches, the last one at the back.
    recent: VecDeque<ChangeBatch>,
    /// The sum of the sizes of all slots.
    sum: Size,
}

/// A batch of changes: returns whether it may affect a path.
struct ChangeBatch(Box<dyn Fn(&str) -> bool + Send>);

impl fmt::Debug for ChangeBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangeBatch")
    }
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// The time just before the lookup began.
    looked_up: Instant,
    /// The time until which the entry is fresh; `None` for ever.
    fresh_until: Option<Instant>,
    /// Whether a request has claimed the refresh.
    is_refreshing: bool,
    /// Whether it was requested since the last eviction: the reference bit of the second-chance algorithm.
    is_referenced: bool,
    size: Size,
}

/// The share of a slot in the bounds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Size {
    entries: usize,
    bytes: usize,
    open_files: usize,
}

impl Cache {
    pub(super) fn new(limits: Limits, revalidate: Duration) -> Self {
        Self { limits, revalidate, table: Mutex::default() }
    }

    /// Returns the entry of `path` while it is fresh.
    ///
    /// On a stale entry the first caller gets `None` and with it the refresh claim. Other callers get
    /// the stale entry for another `revalidate` interval, then `None` as well.
    ///
    /// The caller with the claim ends it by [`insert`](Self::insert) or by
    /// [`release_refresh`](Self::release_refresh).
    pub(super) fn get(&self, path: &str, now: Instant) -> Option<Arc<Entry>> {
        let mut table = self.lock();
        let slot = table.slots.get_mut(path)?;
        if slot.fresh_until.is_some_and(|fresh_until| fresh_until <= now) {
            let age = now.saturating_duration_since(slot.looked_up);
            if !slot.is_refreshing || age >= self.revalidate.saturating_mul(2) {
                slot.is_refreshing = true;
                return None;
            }
        }
        slot.is_referenced = true;
        Some(slot.entry.clone())
    }

    /// Returns the entry of `path` if it is fresh at `now`. Claims no refresh.
    pub(super) fn fresh(&self, path: &str, now: Instant) -> Option<Arc<Entry>> {
        let table = self.lock();
        let slot = table.slots.get(path)?;
        let is_stale = slot.fresh_until.is_some_and(|fresh_until| fresh_until <= now);
        (!is_stale).then(|| slot.entry.clone())
    }

    /// Returns the entry of `path` if it was looked up within [`MAX_STALE`], fresh or not. Claims no refresh.
    pub(super) fn stale(&self, path: &str, now: Instant) -> Option<Arc<Entry>> {
        let table = self.lock();
        let slot = table.slots.get(path)?;
        let age = now.saturating_duration_since(slot.looked_up);
        (age < MAX_STALE).then(|| slot.entry.clone())
    }

    /// Releases the refresh claim on `path`, so that the next request gets it.
    pub(super) fn release_refresh(&self, path: &str) {
        if let Some(slot) = self.lock().slots.get_mut(path) {
            slot.is_refreshing = false;
        }
    }

    /// Returns whether entries are cached at all.
    pub(super) fn is_enabled(&self) -> bool {
        !self.revalidate.is_zero() && self.limits.entries > 0
    }

    /// Returns whether a change may have affected `path` since [`change_count`](Self::change_count)
    /// returned `changes`.
    pub(super) fn may_have_changed(&self, path: &str, changes: u64) -> bool {
        self.lock().may_have_changed(path, changes)
    }

    /// Returns whether a lookup that began at `began` is less than one `revalidate` interval old at `now`.
    pub(super) fn is_recent(&self, began: Instant, now: Instant) -> bool {
        now.saturating_duration_since(began) < self.revalidate
    }

    /// Returns the number of batches of changes so far. Call it before a lookup.
    pub(super) fn change_count(&self) -> u64 {
        self.lock().changes
    }

    /// Removes the entries that a batch of changes concerns.
    ///
    /// `concerns` runs under the lock, so it must be fast. A large batch is not kept: it discards the results
    /// of all lookups in flight.
    pub(super) fn invalidate(
        &self,
        concerns: impl Fn(&str) -> bool + Send + 'static,
        is_large: bool,
    ) {
        let mut evicted = Vec::new();
        let mut table = self.lock();
        table.changes += 1;
        table.remove_if(&mut evicted, |_, path, _| concerns(path));
        let forgotten =
            (table.recent.len() == MAX_RECENT_BATCHES).then(|| table.recent.pop_front());
        let batch = if is_large {
            ChangeBatch(Box::new(|_| true))
        } else {
            ChangeBatch(Box::new(concerns))
        };
        table.recent.push_back(batch);
        drop(table);
        drop((evicted, forgotten));
    }

    /// Caches the result of a lookup of `path` that began at `looked_up`. If the path may have changed since
    /// the change count was `changes`, or the entry exceeds a bound, this removes the older entry instead. A new path
    /// enters a full table only if it was looked up before, not long ago.
    pub(super) fn insert(&self, path: &str, entry: Arc<Entry>, looked_up: Instant, changes: u64) {
        let size = Size::of(path, &entry);
        if self.revalidate.is_zero() {
            return; // no entry would ever be fresh
        }
        let mut table = self.lock();
        let old = match table.slots.get(path) {
            // A concurrent lookup that began later.
            Some(slot) if slot.looked_up > looked_up => return,
            Some(_) => table.remove(path),
            None => None,
        };
        // An entry that exceeds a bound alone is not cached.
        if table.may_have_changed(path, changes) || !size.fits(self.limits) {
            drop(table);
            return drop(old);
        }
        let fits = table.sum.plus(size).fits(self.limits);
        if !fits && old.is_none() && !table.admits(path, self.limits) {
            return;
        }
        let is_referenced = old.as_ref().is_some_and(|slot| slot.is_referenced);
        let evicted = if fits { Vec::new() } else { table.evict(self.limits, size) };
        table.sum = table.sum.plus(size);
        let fresh_until = looked_up.checked_add(self.revalidate);
        table.slots.insert(
            path.into(),
            Slot { entry, looked_up, fresh_until, is_refreshing: false, is_referenced, size },
        );
        drop(table);
        // Close files and free memory after the lock is released.
        drop((old, evicted));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is consistent between any two statements that can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, path: &str) -> Option<Slot> {
        let slot = self.slots.remove(path)?;
        self.sum = self.sum.minus(slot.size);
        Some(slot)
    }

    /// Returns whether a new path may evict others.
    fn admits(&mut self, path: &str, limits: Limits) -> bool {
        let hash = self.slots.hasher().hash_one(path);
        self.admission.is_repeated(hash, limits.entries)
    }

    /// Returns whether a change may have affected `path` since the change count was `changes`.
    fn may_have_changed(&self, path: &str, changes: u64) -> bool {
        let since = usize::try_from(self.changes - changes).unwrap_or(usize::MAX);
        match self.recent.len().checked_sub(since) {
            Some(before) => self.recent.range(before..).any(|change| (change.0)(path)),
            None => true, // the first of these batches are not kept any more
        }
    }

    /// Removes slots until `more` fits with an eighth of each bound to spare, so that one pass over the table
    /// serves many insertions.
    ///
    /// Missing paths are evicted first: requests for many missing names evict an eighth of the other entries
    /// once, and then only each other. Then, as in the second-chance algorithm, entries without requests since
    /// the last eviction; then any entry.
    fn evict(&mut self, limits: Limits, more: Size) -> Vec<Slot> {
        let goal = Limits {
            entries: limits.entries - limits.entries / 8,
            bytes: limits.bytes - limits.bytes / 8,
            open_files: limits.open_files - limits.open_files / 8,
        };
        let mut evicted = Vec::new();
        self.remove_if(&mut evicted, |_, _, slot| matches!(*slot.entry, Entry::Missing));
        self.remove_if(&mut evicted, |sum, _, slot| {
            sum.plus(more).is_relieved_by(slot.size, goal)
                && !std::mem::take(&mut slot.is_referenced)
        });
        self.remove_if(&mut evicted, |sum, _, slot| {
            sum.plus(more).is_relieved_by(slot.size, limits)
        });
        evicted
    }

    /// Moves the slots that `pick` selects to `evicted`. `pick` gets the sum of the sizes that remain.
    fn remove_if(&mut self, evicted: &mut Vec<Slot>, pick: impl Fn(Size, &str, &mut Slot) -> bool) {
        let mut sum = self.sum;
        let taken = self.slots.extract_if(|path, slot| {
            let take = pick(sum, path, slot);
            if take {
                sum = sum.minus(slot.size);
            }
            take
        });
        evicted.extend(taken.map(|(_, slot)| slot));
        self.sum = sum;
    }
}

impl Size {
    fn of(path: &str, entry: &Entry) -> Self {
        let (content, open_files) = entry.usage();
        Self { entries: 1, bytes: path.len() + content, open_files }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            bytes: self.bytes + other.bytes,
            open_files: self.open_files + other.open_files,
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            entries: self.entries - other.entries,
            bytes: self.bytes - other.bytes,
            open_files: self.open_files - other.open_files,
        }
    }

    fn fits(self, limits: Limits) -> bool {
        self.entries <= limits.entries
            && self.bytes <= limits.bytes
            && self.open_files <= limits.open_files
    }

    /// Returns whether a bound is exceeded that the removal of `part` would relieve.
    fn is_relieved_by(self, part: Self, limits: Limits) -> bool {
        (self.entries > limits.entries && part.entries > 0)
            || (self.bytes > limits.bytes && part.bytes > 0)
            || (self.open_files > limits.open_files && part.open_files > 0)
    }
}

#[cfg(test)]
mod tests;
