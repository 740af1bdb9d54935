//! A map in parts, each under a lock of its own, so that requests seldom wait for each other.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many parts: 32, a few for each core of a large machine. A lock is held for a look into a
/// small map, some 50 ns, so two requests that meet at one part are rare.
const PARTS: usize = 32;

#[derive(Debug)]
pub(super) struct Sharded<K, V> {
    hasher: RandomState,
    parts: [Mutex<HashMap<K, V>>; PARTS],
}

impl<K, V> Sharded<K, V> {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), parts: std::array::from_fn(|_| Mutex::default()) }
    }

    /// The part that `key` is in, or would be in.
    pub(super) fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, V>>
    where
        K: Hash,
    {
        lock(&self.parts[self.hasher.hash_one(key) as usize % PARTS])
    }

    /// One part after the other.
    pub(super) fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, HashMap<K, V>>> {
        self.parts.iter().map(lock)
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    // A key whose Hash or Eq panics leaves the map whole.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}
