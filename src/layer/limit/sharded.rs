//! A sharded map, each shard with its own lock, so that requests rarely contend.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of shards, 32: a few for each core of a large machine. A lock is held for one lookup in a
/// small map, about 50 ns, so contention is rare.
const PARTS: usize = 32;

/// A concurrent hash map.
#[derive(Debug)]
pub(super) struct Sharded<K, V> {
    hasher: RandomState,
    parts: [Mutex<HashMap<K, V>>; PARTS],
}

impl<K, V> Sharded<K, V> {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), parts: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Locks and returns the shard of `key`.
    pub(super) fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>>
    where
        K: Hash,
    {
        lock(&self.parts[self.hasher.hash_one(key) as usize % PARTS])
    }

    /// Locks and returns one shard after the other.
    pub(super) fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V>>> {
        self.parts.iter().map(lock)
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    // A key whose Hash or Eq panics leaves the map consistent.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
