//! `Aliases`: under which key the response is stored that a request with another query may use (`No-Vary-Search`).

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use quick_cache::sync;

use super::key::Key;
use crate::semantics::cache::NoVarySearch;

/// The paths whose rule is remembered, 16,384. Of others the next response tells it again.
const MAX_PATHS: usize = 16_384;

/// The queries that are remembered, 16,384.
const MAX_QUERIES: usize = 16_384;

/// What responses have said about the queries of their paths.
#[derive(Debug)]
pub(super) struct Aliases {
    /// The rule of the latest response of a path.
    rules: sync::Cache<Box<str>, Arc<NoVarySearch>>,
    /// The key of the latest response to a query, by a hash of the path and of what in the query makes a difference. The
    /// rule of the response itself shows whether it is the right one.
    keys: sync::Cache<u64, Key>,
    random: RandomState,
}

impl Aliases {
    pub(super) fn new() -> Self {
        Self {
            rules: sync::Cache::new(MAX_PATHS),
            keys: sync::Cache::new(MAX_QUERIES),
            random: RandomState::new(),
        }
    }

    /// Notes that a response with this rule is stored under `key`.
    pub(super) fn insert(&self, key: &Key, rule: NoVarySearch) {
        let (path, query) = split(key);
        self.keys.insert(self.random.hash_one((path, rule.normalize(query))), key.clone());
        self.rules.insert(path.into(), Arc::new(rule));
    }

    /// Returns another key whose response the request may use. That response must have a [rule](is_same) for this too.
    pub(super) fn find(&self, key: &Key) -> Option<Key> {
        let (path, query) = split(key);
        let rule = self.rules.get(path)?;
        let found = self.keys.get(&self.random.hash_one((path, rule.normalize(query))))?;
        (found != *key).then_some(found)
    }
}

/// Returns whether the rule of a response that is stored under `stored` permits to use it for `key`, of the same path.
pub(super) fn is_same(rule: &NoVarySearch, stored: &Key, key: &Key) -> bool {
    let ((stored_path, stored), (path, query)) = (split(stored), split(key));
    stored_path == path && rule.is_same(stored, query)
}

fn split(key: &Key) -> (&str, &str) {
    key.as_str().split_once('?').unwrap_or((key.as_str(), ""))
}
