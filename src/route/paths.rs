//! `PathTable`: finds the entry for a path in a tree of path segments.

use std::{fmt, sync::Arc};

use super::{
    children::Children,
    erased::Route,
    params::PathParams,
    pattern::{Pattern, Segment},
};

/// The entries of a router, in a tree with one level per path segment.
///
/// A lookup hashes each segment once, so it does not depend on the number of entries. At every
/// level a literal segment is tried before a parameter, a parameter before `{*rest}`, and
/// `{*rest}` before a prefix that ends there; where nothing matches below, the next one is tried.
/// No node is visited twice for one path, so the tree bounds the work, whatever the path.
#[derive(Clone, Default)]
pub(super) struct PathTable {
    root: Node,
    /// In the order of registration; nodes refer to them by index.
    entries: Vec<Entry>,
}

#[derive(Clone)]
pub(super) struct Entry {
    /// As it was registered.
    pattern: Box<str>,
    mode: Mode,
    captures: Box<[Capture]>,
    pub(super) service: Arc<dyn Route>,
}

/// How an entry matches, and which URI its service sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The whole path is matched.
    Exact,
    /// The path is below a prefix; the URI is kept.
    Prefix,
    /// The path is below a prefix of this many segments; they are removed from the URI.
    Nest { segments: usize },
}

/// A parameter of a pattern.
#[derive(Clone)]
struct Capture {
    name: Arc<str>,
    /// The index of its segment.
    index: usize,
    is_rest: bool,
}

#[derive(Clone, Default)]
struct Node {
    literals: Children<Self>,
    param: Option<Box<Self>>,
    /// The entry whose pattern ends here.
    exact: Option<usize>,
    /// The entry whose `{*rest}` starts here.
    rest: Option<usize>,
    /// The entry whose prefix ends here.
    prefix: Option<usize>,
}

impl PathTable {
    /// Adds an entry. `pattern` is the text that `parsed` was made of.
    ///
    /// # Errors
    /// The pattern of the entry that matches the same paths, if there is one.
    pub(super) fn insert(
        &mut self,
        pattern: &str,
        parsed: &Pattern,
        mode: Mode,
        service: Arc<dyn Route>,
    ) -> Result<(), &str> {
        let mut node = &mut self.root;
        let mut captures = Vec::new();
        let mut is_rest = false;
        for (index, segment) in parsed.segments().iter().enumerate() {
            match segment {
                Segment::Literal(text) => node = node.literals.get_or_insert(text),
                Segment::Param(_) => node = node.param.get_or_insert_default(),
                Segment::Rest(_) => is_rest = true,
            }
            if let Some(name) = segment.name() {
                captures.push(Capture { name: name.clone(), index, is_rest });
            }
        }
        let slot = match mode {
            Mode::Exact if is_rest => &mut node.rest,
            Mode::Exact => &mut node.exact,
            Mode::Prefix | Mode::Nest { .. } => &mut node.prefix,
        };
        if let Some(index) = *slot {
            return Err(&self.entries[index].pattern);
        }
        *slot = Some(self.entries.len());
        let captures = captures.into();
        self.entries.push(Entry { pattern: pattern.into(), mode, captures, service });
        Ok(())
    }

    /// Returns the entry for `normal`, a path in normal form that starts with a slash.
    pub(super) fn find(&self, normal: &str) -> Option<&Entry> {
        self.root.find(normal.get(1..)).map(|index| &self.entries[index])
    }
}

impl Node {
    /// Returns the index of the best entry for `path`: the segments that are left, without the
    /// slash before them, or `None` where the path has ended.
    fn find(&self, path: Option<&str>) -> Option<usize> {
        let Some(path) = path else { return self.exact.or(self.prefix) };
        let (segment, below) = split(path);
        let literal = self.literals.get(segment).and_then(|node| node.find(below));
        if literal.is_some() {
            return literal;
        }
        if !path.is_empty() {
            let param = self.param.as_ref().filter(|_| !segment.is_empty());
            let found = param.and_then(|node| node.find(below)).or(self.rest);
            if found.is_some() {
                return found;
            }
        }
        self.prefix
    }
}

/// The first segment of `path`, and what is behind the slash after it.
fn split(path: &str) -> (&str, Option<&str>) {
    match memchr::memchr(b'/', path.as_bytes()) {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

impl Entry {
    #[cfg(test)]
    pub(super) fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The number of segments to remove from the URI for this entry's service.
    pub(super) fn nested_segments(&self) -> usize {
        match self.mode {
            Mode::Nest { segments } => segments,
            Mode::Exact | Mode::Prefix => 0,
        }
    }

    /// The values of this entry's parameters in `normal`, which it matches. Does not allocate if
    /// it has none.
    pub(super) fn capture(&self, normal: &str) -> PathParams {
        let mut params = PathParams::default();
        for capture in &self.captures {
            let slash = memchr::memchr_iter(b'/', normal.as_bytes()).nth(capture.index);
            let value = &normal[slash.expect("the entry matches the path") + 1..];
            let value = if capture.is_rest { value } else { split(value).0 };
            params.push(capture.name.clone(), value);
        }
        params
    }
}

impl fmt::Debug for PathTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|e| (e.mode, &e.pattern))).finish()
    }
}
