//! `Aliases`: the keys of stored responses by equivalent queries (`No-Vary-Search`).

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use quick_cache::sync;

use super::key::Key;
use crate::semantics::cache::NoVarySearch;

/// The maximum number of paths with a rule, 16,384. The next response of an evicted path sets its rule again.
const MAX_PATHS: usize = 16_384;

/// The maximum number of queries, 16,384.
const MAX_QUERIES: usize = 16_384;

/// The `No-Vary-Search` rules of paths, and the keys of stored responses that they make usable for other queries.
#[derive(Debug)]
pub(super) struct Aliases {
    /// The rule of the latest response of a path.
    rules: sync::Cache<Box<str>, Arc<NoVarySearch>>,
    /// The key of the latest response, by a hash of the path and the normalized query. A collision is detected by the rule of
    /// the response itself.
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

    /// Records that a response with this rule is stored under `key`.
    pub(super) fn insert(&self, key: &Key, rule: NoVarySearch) {
        let (path, query) = split(key);
        self.keys.insert(self.random.hash_one((path, rule.normalize(query))), key.clone());
        self.rules.insert(path.into(), Arc::new(rule));
    }

    /// Returns another key whose response may be usable for the request. The caller must check the rule of that response
    /// with [`is_same`].
    pub(super) fn find(&self, key: &Key) -> Option<Key> {
        let (path, query) = split(key);
        let rule = self.rules.get(path)?;
        let found = self.keys.get(&self.random.hash_one((path, rule.normalize(query))))?;
        (found != *key).then_some(found)
    }
}

/// Returns whether `rule`, of the response that is stored under `stored`, permits its use for `key`.
pub(super) fn is_same(rule: &NoVarySearch, stored: &Key, key: &Key) -> bool {
    let ((stored_path, stored), (path, query)) = (split(stored), split(key));
    stored_path == path && rule.is_same(stored, query)
}

fn split(key: &Key) -> (&str, &str) {
    key.as_str().split_once('?').unwrap_or((key.as_str(), ""))
}
