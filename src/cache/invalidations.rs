//! `Invalidations`: how many there were, for fetches that are not in the list of those in progress.

use std::{
    hash::BuildHasher,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use super::key::{Key, KeyHasher};

/// The numbers of invalidations so far.
pub(super) struct Invalidations {
    /// Of many responses.
    all: AtomicU64,
    /// Of single keys, by their hash: so an invalidation of a key also counts for 1 in 256 other keys.
    by_hash: [AtomicU64; 256],
    hasher: KeyHasher,
}

impl Invalidations {
    fn of(&self, key: &Key) -> &AtomicU64 {
        let hash = self.hasher.hash_one(key);
        &self.by_hash[usize::from(hash.to_le_bytes()[0])]
    }

    /// Counts an invalidation of many responses.
    pub(super) fn add(&self) {
        self.all.fetch_add(1, Release);
    }

    /// Counts an invalidation of a key.
    pub(super) fn add_key(&self, key: &Key) {
        self.of(key).fetch_add(1, Release);
    }

    /// Returns the number of invalidations that may concern a key. It never decreases.
    pub(super) fn count(&self, key: &Key) -> u64 {
        self.all.load(Acquire) + self.of(key).load(Acquire)
    }
}

impl Default for Invalidations {
    fn default() -> Self {
        let by_hash = [const { AtomicU64::new(0) }; 256];
        Self { all: AtomicU64::new(0), by_hash, hasher: KeyHasher::default() }
    }
}
