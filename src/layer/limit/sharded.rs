//! A sharded map, each shard with its own lock, so that requests rarely contend.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of shards, 32: a few for each core of a large machine. A lock is held for one lookup in a
/// small map, about 50 ns, so contention is rare.
const SHARDS: usize = 32;

/// A concurrent hash map.
#[derive(Debug)]
pub(super) struct Sharded<K, V> {
    hasher: RandomState,
    shards: [Mutex<HashMap<K, V>>; SHARDS],
}

impl<K, V> Sharded<K, V> {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Locks and returns the shard of `key`.
    pub(super) fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>>
    where
        K: Hash,
    {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }

    /// Locks and returns one shard after the other.
    pub(super) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V>>> {
        self.shards.iter().map(lock)
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // A key whose Hash or Eq panics leaves the map consistent.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
