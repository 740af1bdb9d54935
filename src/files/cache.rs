//! A bounded table of what paths name, so that a request for a file that was just served costs no
//! system call.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::entry::Entry;

/// The most paths that are held, found and missing ones alike. At some 1 KiB for the headers of
/// each that is 4 MiB.
pub(super) const MAX_ENTRIES: usize = 4096;

/// The most bytes of content and paths that are held: 4,096 files of 4 KiB.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// The most files that are held open for `sendfile`: a quarter of the 1,024 descriptors that a
/// process has by default.
pub(super) const MAX_OPEN_FILES: usize = 256;

/// How long what is held is believed: a second, in which a busy file is served thousands of times.
pub(super) const REVALIDATE_INTERVAL: Duration = Duration::from_secs(1);

/// How long after its last lookup an entry is served while lookups fail because descriptors, memory or
/// threads have run out: a minute. A change that is reported removes it before.
pub(super) const MAX_STALE: Duration = Duration::from_secs(60);

/// So many batches of changes are remembered, for looks that began before them: at a hundred a second,
/// a sixth of a second's.
const MAX_RECENT_BATCHES: usize = 16;

/// Bounds of the table; they hold at any time, not just after a clean-up.
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

/// Normal paths and what they name, shared by all clones of a service.
#[derive(Debug)]
pub(super) struct Cache {
    limits: Limits,
    revalidate: Duration,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<Box<str>, Slot>,
    /// How many batches of changes were heard of.
    changes: u64,
    /// The last of them.
    recent: VecDeque<ChangeBatch>,
    /// The sums over all slots.
    sum: Size,
}

/// Does a batch of changes concern a path?
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
    /// Until when that is believed; `None`: for ever.
    fresh_until: Option<Instant>,
    /// A refresh is claimed.
    is_refreshing: bool,
    /// Asked for since the last clean-up passed here.
    is_referenced: bool,
    size: Size,
}

/// What a slot takes of the bounds.
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

    /// Is anything ever served from here?
    pub(super) fn is_enabled(&self) -> bool {
        !self.revalidate.is_zero() && self.limits.entries > 0
    }

    /// May what `path` names have changed, for all that was heard of since the count was `changes`?
    pub(super) fn may_have_changed(&self, path: &str, changes: u64) -> bool {
        self.lock().may_have_changed(path, changes)
    }

    /// Is a look that began at `began` still one of the same time, at `now`?
    pub(super) fn is_recent(&self, began: Instant, now: Instant) -> bool {
        now.saturating_duration_since(began) < self.revalidate
    }

    /// A count of the changes that were heard of, to be taken before a look.
    pub(super) fn change_count(&self) -> u64 {
        self.lock().changes
    }

    /// Forgets the paths that a batch of changes concerns. All requests wait meanwhile: it should not
    /// take long to tell. A large one is not kept for looks that are on their way: they do not count.
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

    /// Holds what `path` was found to name when the disk was looked at, unless it may have changed
    /// since the count was `changes`. Then nothing older is held either.
    pub(super) fn insert(&self, path: &str, entry: Arc<Entry>, looked_up: Instant, changes: u64) {
        let size = Size::of(path, &entry);
        if self.revalidate.is_zero() {
            return; // nothing would ever be served from here
        }
        let mut table = self.lock();
        let old = match table.slots.get(path) {
            // Two looked at once, and the other one later.
            Some(slot) if slot.looked_up > looked_up => return,
            Some(_) => table.remove(path),
            None => None,
        };
        // Or it alone is above the bound.
        if table.may_have_changed(path, changes) || !size.fits(self.limits) {
            drop(table);
            return drop(old);
        }
        let is_referenced = old.as_ref().is_some_and(|slot| slot.is_referenced);
        let evicted = if table.sum.plus(size).fits(self.limits) {
            Vec::new()
        } else {
            table.evict(self.limits, size)
        };
        table.sum = table.sum.plus(size);
        let fresh_until = looked_up.checked_add(self.revalidate);
        table.slots.insert(
            path.into(),
            Slot { entry, looked_up, fresh_until, is_refreshing: false, is_referenced, size },
        );
        drop(table);
        // Files are closed and memory is freed when nobody waits for the lock.
        drop((old, evicted));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table is whole between any two statements that can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove(&mut self, path: &str) -> Option<Slot> {
        let slot = self.slots.remove(path)?;
        self.sum = self.sum.minus(slot.size);
        Some(slot)
    }

    /// Has a batch of changes concerned `path` since the count was `changes`?
    fn may_have_changed(&self, path: &str, changes: u64) -> bool {
        let since = usize::try_from(self.changes - changes).unwrap_or(usize::MAX);
        match self.recent.len().checked_sub(since) {
            Some(before) => self.recent.range(before..).any(|change| (change.0)(path)),
            None => true, // nobody knows any more what has changed first
        }
    }

    /// Takes slots out until there is room for `more`, and for another eighth of the bounds, so
    /// that going through the table pays for many insertions.
    ///
    /// First go the missing: whoever asks for many names that do not exist pushes out an eighth of the
    /// others once, and then nothing but those. Then, as in the second chance algorithm, whatever was not asked for since the
    /// last time; then anything.
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

    /// Is one of the bounds passed that `part` has a part in?
    fn is_relieved_by(self, part: Self, limits: Limits) -> bool {
        (self.entries > limits.entries && part.entries > 0)
            || (self.bytes > limits.bytes && part.bytes > 0)
            || (self.open_files > limits.open_files && part.open_files > 0)
    }
}

#[cfg(test)]
mod tests;
