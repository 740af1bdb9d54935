//! `Changes`: a batch of changed names, and the paths that it may affect.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound,
};

/// Names that have changed, by their directory below the root.
///
/// Answers err towards "affected": a needless invalidation costs one lookup.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether events were lost or a file system was unmounted, so that any path may have changed.
    pub(super) has_lost_events: bool,
    /// Sorted: there may be thousands, and each cached path is searched among them.
    names: HashMap<Box<str>, BTreeSet<Box<[u8]>>>,
}

impl Changes {
    /// Records that `name` in `directory` was created, deleted or modified; `.` is the root.
    pub(super) fn add(&mut self, directory: &str, name: &[u8]) {
        match self.names.get_mut(directory) {
            Some(names) => {
                if !names.contains(name) {
                    names.insert(name.into());
                }
            }
            None => {
                self.names.insert(directory.into(), BTreeSet::from([name.into()]));
            }
        }
    }

    /// Returns the number of names.
    pub(super) fn len(&self) -> usize {
        self.names.values().map(BTreeSet::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_lost_events && self.names.is_empty()
    }

    /// Returns whether a cached entry of `path` may be outdated. Paths are below the root; one with a
    /// trailing slash is the directory's index file or listing.
    pub(super) fn may_affect(&self, path: &str) -> bool {
        if self.has_lost_events {
            return true;
        }
        let (directory, name) = split_name(path);
        // A prefix counts: `a.html` can answer for `a`, and `a.js.gz` for `a.js`.
        let begins = |names: &BTreeSet<Box<[u8]>>| {
            let from = (Bound::Included(name.as_bytes()), Bound::Unbounded);
            names
                .range::<[u8], _>(from)
                .next()
                .is_some_and(|changed| changed.starts_with(name.as_bytes()))
        };
        self.names.get(directory).is_some_and(begins) || self.has_replaced(directory)
    }

    /// Returns whether `directory`, or a directory above it, may have been replaced.
    pub(super) fn has_replaced(&self, mut directory: &str) -> bool {
        while directory != "." {
            let (parent, name) = split_name(directory);
            if self.names.get(parent).is_some_and(|names| names.contains(name.as_bytes())) {
                return true;
            }
            directory = parent;
        }
        false
    }
}

/// Splits a path into its directory and the name in it.
fn split_name(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_invalidates_each_path_its_name_may_serve() {
        let concerned = |directory: &str, name: &str, path: &str| {
            let mut changes = Changes::default();
            changes.add(directory, name.as_bytes());
            changes.add("elsewhere", b"x");
            changes.may_affect(path)
        };
        for (directory, name, path) in [
            (".", "a.js", "a.js"),
            (".", "a.js.gz", "a.js"),
            (".", "about.html", "about"),
            (".", "ab", "ab"),
            (".", "index.html", ""),
            (".", "new", ""),
            ("docs", "index.html", "docs/"),
            ("docs", "a", "docs/a"),
            (".", "docs", "docs"),
            (".", "docs", "docs/"),
            (".", "docs", "docs/a/b/c.txt"),
            ("docs", "a", "docs/a/b/c.txt"),
            ("docs/a", "b", "docs/a/b/c.txt"),
        ] {
            assert!(concerned(directory, name, path), "{directory} {name} {path}");
        }
        for (directory, name, path) in [
            (".", "a", "a.js"),
            (".", "b.js", "a.js"),
            ("docs", "a.js", "a.js"),
            (".", "doc", "docs/a"),
            (".", "docs2", "docs/a"),
            ("docs", "a", "docs2/a"),
            ("a/docs", "a", "docs/a"),
        ] {
            assert!(!concerned(directory, name, path), "{directory} {name} {path}");
        }
    }

    #[test]
    fn lost_events_invalidate_everything() {
        let mut changes = Changes::default();
        assert!(changes.is_empty() && !changes.may_affect("a"));
        changes.has_lost_events = true;
        assert!(!changes.is_empty() && changes.may_affect("a") && changes.may_affect(""));
    }
}
