//! `Marks`: invalidations of many responses. Lookups apply a mark at once; a sweep in the background applies it to the store.

mod recorded;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

pub(super) use self::recorded::RemovalsSynced;
use super::{
    disk::Journal,
    key::Key,
    object::Object,
    store::{Found, Purge},
};

/// The maximum number of groups that are invalidated during one sweep of the store, 16,384. One more invalidates everything.
pub const MAX_MARKED_GROUPS: usize = 16_384;

/// The maximum number of prefixes that are invalidated during one sweep of the store, 256. One more invalidates everything.
/// Until the sweep has ended, the key of each request is compared with each prefix.
pub const MAX_MARKED_PREFIXES: usize = 256;

/// The set of responses that an invalidation applies to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    /// The responses whose key begins with this.
    Prefix(&'a str),
    /// The responses of a group, of one origin (RFC 9875 section 3), or of all if `origin` is empty.
    Group {
        group: &'a str,
        origin: &'a str,
    },
    /// A single key, that an earlier process has deleted.
    Key(&'a str),
}

impl Scope<'_> {
    /// Returns whether it contains a response with this key and these groups. Unknown groups (`None`) match every group.
    pub(super) fn selects(&self, key: &Key, groups: Option<&[String]>) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => key.as_str().starts_with(prefix),
            Self::Group { group, origin } => {
                is_of_origin(key, origin)
                    && groups.is_none_or(|of| of.binary_search_by(|g| (**g).cmp(group)).is_ok())
            }
            Self::Key(one) => key.as_str() == *one,
        }
    }
}

fn is_of_origin(key: &Key, origin: &str) -> bool {
    let rest = key.as_str().strip_prefix(origin);
    origin.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
}

/// The effect of the marks on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// The object became stale at this time.
    Expire(Duration),
    Remove,
}

/// The invalidations that have not been applied to the store yet.
#[derive(Default)]
pub(super) struct Marks {
    /// The revision of the newest mark; 0 if there is none. No mark applies to an object with a later revision.
    newest: AtomicU64,
    /// How often marks were removed.
    removals: AtomicU64,
    set: RwLock<Set>,
    /// Of a store in a directory.
    journal: Option<Journal>,
}

#[derive(Default)]
struct Set {
    /// The revision of the newest mark that a sweep has applied.
    swept: u64,
    /// Whether marks are kept after the sweep.
    is_held: bool,
    all: Level,
    prefixes: Vec<(Box<str>, Level)>,
    /// By group, then by origin.
    groups: HashMap<Box<str>, Vec<(Box<str>, Level)>>,
    groups_len: usize,
    /// As many as a journal has.
    keys: HashMap<Box<str>, Level>,
}

/// The latest invalidations of one scope, by kind. An invalidation applies to objects with an earlier revision; 0 means that
/// there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    hard: u64,
    soft: u64,
    soft_at: Duration,
}

impl Level {
    fn add(&mut self, purge: Purge, revision: u64, at: Duration) {
        match purge {
            Purge::Hard => self.hard = self.hard.max(revision),
            Purge::Soft => (self.soft, self.soft_at) = (self.soft.max(revision), at),
        }
    }

    /// Returns the union of both.
    fn max(self, other: Self) -> Self {
        let soft = if self.soft > other.soft { self } else { other };
        Self { hard: self.hard.max(other.hard), soft: soft.soft, soft_at: soft.soft_at }
    }

    fn verdict(self, revision: u64) -> Verdict {
        match () {
            () if revision < self.hard => Verdict::Remove,
            () if revision < self.soft => Verdict::Expire(self.soft_at),
            () => Verdict::Keep,
        }
    }

    /// Removes invalidations up to a revision. Returns whether any is left.
    fn forget(&mut self, up_to: u64) -> bool {
        self.hard = if self.hard <= up_to { 0 } else { self.hard };
        self.soft = if self.soft <= up_to { 0 } else { self.soft };
        self.newest() > 0
    }

    fn newest(self) -> u64 {
        self.hard.max(self.soft)
    }
}

impl Marks {
    fn read(&self) -> RwLockReadGuard<'_, Set> {
        // Nothing panics between two changes that belong together.
        self.set.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Set> {
        self.set.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Invalidates all objects of the scope with an earlier revision.
    pub(super) fn add(&self, scope: Scope<'_>, purge: Purge, revision: u64, at: Duration) {
        let mut set = self.write();
        set.level(scope).add(purge, revision, at);
        self.newest.fetch_max(revision, Relaxed);
        drop(set);
    }

    /// Returns the verdict of the marks on an object.
    pub(super) fn verdict(&self, key: &Key, groups: &[String], revision: u64) -> Verdict {
        // A request sees the marks of all invalidations that happened before it.
        if revision >= self.newest.load(Acquire) {
            return Verdict::Keep;
        }
        self.read().find(key, groups).verdict(revision)
    }

    /// Returns how often marks were removed, for [`apply`](Self::apply).
    pub(super) fn removals(&self) -> u64 {
        self.removals.load(Acquire)
    }

    /// Applies the marks to an object that was found after `removals` was read. Returns `None` if marks were removed
    /// meanwhile: they may apply to the object, and the sweep has changed the object in the store after it was found.
    pub(super) fn apply(&self, key: &Key, found: Found, removals: u64) -> Option<Found> {
        let found = self.apply_present(key, found);
        (self.removals() == removals).then_some(found)
    }

    fn apply_present(&self, key: &Key, found: Found) -> Found {
        let Found { object: Some(object), has_others } = found else { return found };
        let object = match self.verdict(key, &object.groups, object.revision) {
            Verdict::Keep => Some(object),
            Verdict::Remove => None,
            Verdict::Expire(at) => {
                let mut stale = Object::clone(&object);
                stale.freshness.expire(at);
                Some(Arc::new(stale))
            }
        };
        Found { object, has_others }
    }

    /// Returns the revision of the newest mark; `None` if all were swept.
    pub(super) fn newest(&self) -> Option<u64> {
        let set = self.read();
        Some(self.newest.load(Relaxed)).filter(|newest| *newest > set.swept)
    }

    /// Removes the marks up to a revision, after a sweep; from the journal only if the disk has not failed.
    pub(super) fn forget(&self, up_to: u64, is_settled: bool, _: &RemovalsSynced) {
        let mut set = self.write();
        set.swept = set.swept.max(up_to);
        self.forget_swept(&mut set);
        drop(set);
        self.clear_journal(is_settled);
    }

    /// Keeps marks after their sweep, for objects that the scan has not added to the store yet.
    #[cfg(test)]
    pub(super) fn hold(&self) {
        self.write().is_held = true;
    }

    /// Ends [`hold`](Self::hold).
    pub(super) fn release(&self, _: &RemovalsSynced) {
        let mut set = self.write();
        set.is_held = false;
        self.forget_swept(&mut set);
        drop(set);
        self.clear_journal(true);
    }

    fn forget_swept(&self, set: &mut Set) {
        if !set.is_held {
            // Before the marks are gone, so that a lookup that does not see them sees this.
            self.removals.fetch_add(1, AcqRel);
            let newest = set.forget(set.swept);
            self.newest.store(newest, Release);
        }
    }
}

impl Set {
    /// Returns the level of a scope, or the level of all objects if there are too many scopes.
    fn level(&mut self, scope: Scope<'_>) -> &mut Level {
        match scope {
            Scope::All => &mut self.all,
            Scope::Prefix(prefix) => {
                let index = self.prefixes.iter().position(|(known, _)| **known == *prefix);
                let index = index.unwrap_or(self.prefixes.len());
                if index == MAX_MARKED_PREFIXES {
                    too_many("prefixes", MAX_MARKED_PREFIXES);
                    return &mut self.all;
                }
                if index == self.prefixes.len() {
                    self.prefixes.push((prefix.into(), Level::default()));
                }
                &mut self.prefixes[index].1
            }
            Scope::Group { group, origin } => {
                let known = self.groups.get(group).map_or(&[][..], Vec::as_slice);
                let index = known.iter().position(|(known, _)| **known == *origin);
                if index.is_none() && self.groups_len == MAX_MARKED_GROUPS {
                    too_many("groups", MAX_MARKED_GROUPS);
                    return &mut self.all;
                }
                let levels = self.groups.entry(group.into()).or_default();
                let index = index.unwrap_or_else(|| {
                    self.groups_len += 1;
                    levels.push((origin.into(), Level::default()));
                    levels.len() - 1
                });
                &mut levels[index].1
            }
            Scope::Key(key) => self.keys.entry(key.into()).or_default(),
        }
    }

    fn find(&self, key: &Key, groups: &[String]) -> Level {
        let prefixes =
            self.prefixes.iter().filter(|(prefix, _)| key.as_str().starts_with(&**prefix));
        let groups = groups.iter().filter_map(|group| self.groups.get(&**group)).flatten();
        let groups = groups.filter(|(origin, _)| is_of_origin(key, origin));
        let scopes = prefixes.chain(groups).map(|(_, level)| level);
        scopes.chain(self.keys.get(key.as_str())).fold(self.all, |level, other| level.max(*other))
    }

    /// Removes invalidations up to a revision. Returns the revision of the newest one that is left.
    fn forget(&mut self, up_to: u64) -> u64 {
        self.all.forget(up_to);
        self.prefixes.retain_mut(|(_, level)| level.forget(up_to));
        self.groups.retain(|_, levels| {
            levels.retain_mut(|(_, level)| level.forget(up_to));
            !levels.is_empty()
        });
        self.groups_len = self.groups.values().map(Vec::len).sum();
        self.keys.retain(|_, level| level.forget(up_to));
        let groups = self.groups.values().flatten();
        let scopes = self.prefixes.iter().chain(groups).map(|(_, level)| level);
        let left = scopes.chain(self.keys.values()).map(|level| level.newest());
        left.max().unwrap_or(0).max(self.all.newest())
    }
}

fn too_many(what: &str, max: usize) {
    tracing::warn!(
        "more than {max} {what} were invalidated during one sweep: the whole cache is invalidated"
    );
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("newest", &self.newest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
