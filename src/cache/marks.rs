//! `Marks`: invalidations of many responses. They count from the moment at which they are made, and are carried out in
//! the background.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    key::Key,
    object::Object,
    store::{Found, Purge},
};

/// The groups that may be invalidated while the store is searched for those of earlier invalidations, 16,384. One more
/// invalidates everything.
pub const MAX_MARKED_GROUPS: usize = 16_384;

/// The prefixes, likewise, 256. Each is compared with each request's key until the search has ended.
pub const MAX_MARKED_PREFIXES: usize = 256;

/// What an invalidation concerns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    All,
    /// Keys that begin with this.
    Prefix(&'a str),
    /// A group, of one origin only if it is not empty (RFC 9875 section 3).
    Group {
        group: &'a str,
        origin: &'a str,
    },
}

impl Scope<'_> {
    /// Returns whether it concerns a response with this key and these groups; unknown groups may be any.
    pub(super) fn selects(&self, key: &Key, groups: Option<&[String]>) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => key.as_str().starts_with(prefix),
            Self::Group { group, origin } => {
                is_of_origin(key, origin)
                    && groups.is_none_or(|of| of.binary_search_by(|g| (**g).cmp(group)).is_ok())
            }
        }
    }
}

fn is_of_origin(key: &Key, origin: &str) -> bool {
    let rest = key.as_str().strip_prefix(origin);
    origin.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
}

/// What the marks say about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// It became stale at this time.
    Expire(Duration),
    Remove,
}

/// All invalidations that are not carried out yet.
#[derive(Default)]
pub(super) struct Marks {
    /// The newest mark; 0 if there is none. An object with a later revision needs no lookup.
    newest: AtomicU64,
    set: RwLock<Set>,
}

#[derive(Default)]
struct Set {
    /// The newest mark that was carried out.
    swept: u64,
    /// Marks that were carried out still count.
    is_held: bool,
    all: Level,
    prefixes: Vec<(Box<str>, Level)>,
    /// By group, then by origin.
    groups: HashMap<Box<str>, Vec<(Box<str>, Level)>>,
    groups_len: usize,
}

/// The latest invalidations of one scope: they concern objects with an earlier revision. 0 is before all objects.
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

    /// Returns the stricter one.
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

    /// Forgets invalidations up to a revision. Returns whether one is left.
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

    /// Returns what the marks say about an object.
    pub(super) fn verdict(&self, key: &Key, groups: &[String], revision: u64) -> Verdict {
        // A request that comes after an invalidation sees its mark, since one happens before the other.
        if revision >= self.newest.load(Relaxed) {
            return Verdict::Keep;
        }
        self.read().find(key, groups).verdict(revision)
    }

    /// Returns what of a stored response the marks leave.
    pub(super) fn apply(&self, key: &Key, found: Found) -> Found {
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

    /// Returns the newest mark; `None` if all are carried out.
    pub(super) fn newest(&self) -> Option<u64> {
        let set = self.read();
        Some(self.newest.load(Relaxed)).filter(|newest| *newest > set.swept)
    }

    /// Forgets the marks up to this one, which have been carried out.
    pub(super) fn forget(&self, up_to: u64) {
        let mut set = self.write();
        set.swept = set.swept.max(up_to);
        self.forget_swept(&mut set);
    }

    /// Keeps marks that are carried out, for objects that are not in the store yet.
    pub(super) fn hold(&self) {
        self.write().is_held = true;
    }

    /// Ends [`hold`](Self::hold).
    pub(super) fn release(&self) {
        let mut set = self.write();
        set.is_held = false;
        self.forget_swept(&mut set);
    }

    fn forget_swept(&self, set: &mut Set) {
        if !set.is_held {
            let newest = set.forget(set.swept);
            self.newest.store(newest, Relaxed);
        }
    }
}

impl Set {
    /// Returns the level of a scope. If there are too many, that of everything.
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
        }
    }

    fn find(&self, key: &Key, groups: &[String]) -> Level {
        let prefixes =
            self.prefixes.iter().filter(|(prefix, _)| key.as_str().starts_with(&**prefix));
        let groups = groups.iter().filter_map(|group| self.groups.get(&**group)).flatten();
        let groups = groups.filter(|(origin, _)| is_of_origin(key, origin));
        prefixes.chain(groups).fold(self.all, |level, (_, other)| level.max(*other))
    }

    /// Returns the newest mark that is left.
    fn forget(&mut self, up_to: u64) -> u64 {
        self.all.forget(up_to);
        self.prefixes.retain_mut(|(_, level)| level.forget(up_to));
        self.groups.retain(|_, levels| {
            levels.retain_mut(|(_, level)| level.forget(up_to));
            !levels.is_empty()
        });
        self.groups_len = self.groups.values().map(Vec::len).sum();
        let groups = self.groups.values().flatten();
        let left = self.prefixes.iter().chain(groups).map(|(_, level)| level.newest());
        left.max().unwrap_or(0).max(self.all.newest())
    }
}

fn too_many(what: &str, max: usize) {
    tracing::warn!(
        "more than {max} {what} are invalidated at a time: the whole cache is invalidated"
    );
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("newest", &self.newest).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(9);

    fn key(path: &str) -> Key {
        Key::new("http", "a", path, None).unwrap()
    }

    fn groups(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn mark_concerns_earlier_objects_of_its_scope_only() {
        let origin = "http://a";
        for (scope, path, of) in [
            (Scope::All, "/x", &[][..]),
            (Scope::Prefix("http://a/x"), "/xy", &[]),
            (Scope::Group { group: "g", origin: "" }, "/", &["f", "g"]),
            (Scope::Group { group: "g", origin }, "/", &["g"]),
        ] {
            let marks = Marks::default();
            let verdict = |revision| marks.verdict(&key(path), &groups(of), revision);
            assert_eq!(verdict(9), Verdict::Keep);
            marks.add(scope, Purge::Soft, 10, AT);
            assert_eq!((verdict(9), verdict(10)), (Verdict::Expire(AT), Verdict::Keep));
            marks.add(scope, Purge::Hard, 5, AT);
            assert_eq!((verdict(4), verdict(5)), (Verdict::Remove, Verdict::Expire(AT)));
            let other = Key::new("http", "ab", "/", None).unwrap();
            let concerns_other = matches!(scope, Scope::All | Scope::Group { origin: "", .. });
            assert_eq!(marks.verdict(&other, &groups(of), 4) == Verdict::Remove, concerns_other);
            marks.hold();
            marks.forget(9);
            assert_eq!((verdict(4), marks.newest()), (Verdict::Remove, Some(10)));
            marks.release();
            assert_eq!((verdict(4), marks.newest()), (Verdict::Expire(AT), Some(10)));
            marks.forget(10);
            assert_eq!((verdict(4), marks.newest()), (Verdict::Keep, None));
            let set = marks.read();
            assert_eq!((set.prefixes.len(), set.groups.len(), set.groups_len), (0, 0, 0));
        }
    }

    #[test]
    fn marks_are_bounded_and_one_more_concerns_everything() {
        let unmarked = key("/unmarked");
        let marks = Marks::default();
        for i in 0..MAX_MARKED_GROUPS {
            for _ in 0..2 {
                let group = &format!("g{i}");
                marks.add(Scope::Group { group, origin: "" }, Purge::Hard, 2, AT);
            }
        }
        for i in 0..MAX_MARKED_PREFIXES {
            marks.add(Scope::Prefix(&format!("http://b/{i}")), Purge::Hard, 2, AT);
        }
        assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Keep);
        marks.add(Scope::Prefix("http://b"), Purge::Soft, 2, AT);
        assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Expire(AT));
        marks.add(Scope::Group { group: "g", origin: "" }, Purge::Hard, 2, AT);
        assert_eq!(marks.verdict(&unmarked, &[], 1), Verdict::Remove);
        let set = marks.read();
        assert_eq!((set.groups_len, set.prefixes.len()), (MAX_MARKED_GROUPS, MAX_MARKED_PREFIXES));
    }
}
