//! `Names`: values by host name, with wildcards.

use std::{borrow::Cow, collections::HashMap};

/// Values by host name. A wildcard, `*.example.com`, matches one label. Exact names have precedence.
#[derive(Debug)]
pub(super) struct Names<T> {
    exact: HashMap<Box<str>, T>,
    /// By the name without its first label.
    wildcards: HashMap<Box<str>, T>,
    /// The length of the longest key in `wildcards`. Longer names are not looked up, so that a host field of thousands of
    /// dots costs nothing.
    longest_wildcard: usize,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcards: HashMap::new(), longest_wildcard: 0 }
    }
}

impl<T> Names<T> {
    /// Adds a name, unless it exists.
    pub(super) fn insert(&mut self, name: &str, value: T) {
        let name = normalize(name);
        match name.strip_prefix("*.") {
            Some(parent) => {
                self.longest_wildcard = self.longest_wildcard.max(parent.len());
                self.wildcards.entry(parent.into()).or_insert(value)
            }
            None => self.exact.entry(name.into()).or_insert(value),
        };
    }

    /// Returns the value for `name`. Case and a trailing dot are ignored.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        let name = normalize(name);
        self.exact.get(&*name).or_else(|| {
            let (_label, parent) = name.split_once('.')?;
            self.wildcards.get(parent)
        })
    }

    /// Returns the value for `name` as [`get`](Self::get) does, but with wildcards that match any number of labels. The
    /// longest one has precedence.
    pub(super) fn get_at_any_depth(&self, name: &str) -> Option<&T> {
        let name = normalize(name);
        self.exact.get(&*name).or_else(|| {
            name.match_indices('.')
                .map(|(dot, _)| &name[dot + 1..])
                .filter(|parent| parent.len() <= self.longest_wildcard)
                .find_map(|parent| self.wildcards.get(parent))
        })
    }
}

fn normalize(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_name_has_precedence_over_wildcard_of_one_label() {
        let mut names = Names::default();
        names.insert("*.Example.com", 1);
        names.insert("a.example.com", 2);
        names.insert("a.example.com", 3);
        for (name, value) in [
            ("a.example.com", Some(2)),
            ("A.EXAMPLE.COM.", Some(2)),
            ("b.example.com", Some(1)),
            ("c.b.example.com", None),
            ("example.com", None),
            (".example.com", Some(1)),
            ("", None),
        ] {
            assert_eq!(names.get(name).copied(), value, "{name}");
        }
    }

    #[test]
    fn lookup_at_any_depth_prefers_exact_name_and_longest_wildcard() {
        let mut names = Names::default();
        assert_eq!(names.get_at_any_depth("a.example.com"), None);
        names.insert("*.example.com", 1);
        names.insert("*.b.Example.com", 2);
        names.insert("a.example.com", 3);
        for (name, value) in [
            ("a.example.com", Some(3)),
            ("c.example.com", Some(1)),
            ("b.example.com", Some(1)),
            ("D.C.EXAMPLE.COM.", Some(1)),
            ("x.a.example.com", Some(1)),
            ("x.b.example.com", Some(2)),
            ("y.x.b.example.com", Some(2)),
            ("example.com", None),
            ("a.example.org", None),
            ("xexample.com", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(names.get_at_any_depth(name).copied(), value, "{name}");
        }
    }
}
