//! Idle connections to one server, apart for each runtime.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::Id;

/// Locks, so that runtimes of different threads seldom meet at one.
const SHARDS: usize = 16;

/// Idle connections of all runtimes.
///
/// The newest is used first: the others grow old and are closed, so a burst's connections do not stay.
/// A runtime has an entry as long as it has a [`Reaper`](super::reaper::Reaper).
pub(super) struct Pool<C>([Mutex<Shard<C>>; SHARDS]);

type Shard<C> = HashMap<Id, VecDeque<Idle<C>>, BuildHasherDefault<IdHasher>>;

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

/// Hashes a runtime's id. Peers cannot choose it, so the hash needs no random key.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(b.into()));
    }

    fn write_u64(&mut self, n: u64) {
        // 2^64 divided by the golden ratio: neighbours end up far apart.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Idle<C> {
    connection: C,
    since: Instant,
}

impl<C> Pool<C> {
    /// The connection of this runtime that was used last, if it has been idle for less than `timeout`.
    pub(super) fn checkout(&self, runtime: Id, now: Instant, timeout: Duration) -> Option<C> {
        let mut shard = self.shard(runtime);
        let idle = shard.get_mut(&runtime)?;
        let newest = idle.pop_back()?;
        if now.saturating_duration_since(newest.since) < timeout {
            return Some(newest.connection);
        }
        // The others are older still; the reaper is late.
        let expired = std::mem::take(idle);
        drop(shard);
        drop((newest, expired));
        None
    }

    /// Keeps a connection, and closes the oldest if there are more than `keep`. Returns whether it is
    /// the first of a runtime without a reaper.
    pub(super) fn checkin(&self, runtime: Id, connection: C, now: Instant, keep: usize) -> bool {
        if keep == 0 {
            return false;
        }
        let mut shard = self.shard(runtime);
        let (idle, is_first) = match shard.entry(runtime) {
            Entry::Occupied(entry) => (entry.into_mut(), false),
            Entry::Vacant(entry) => (entry.insert(VecDeque::new()), true),
        };
        let surplus = if idle.len() >= keep { idle.pop_front() } else { None };
        idle.push_back(Idle { connection, since: now });
        drop(shard);
        drop(surplus);
        is_first
    }

    /// Closes the connections of this runtime that have been idle for `timeout`. Returns since when
    /// the oldest of the others is idle; without any, the runtime's entry is removed.
    pub(super) fn expire(&self, runtime: Id, now: Instant, timeout: Duration) -> Option<Instant> {
        let mut shard = self.shard(runtime);
        let idle = shard.get_mut(&runtime)?;
        let is_old = |i: &Idle<C>| now.saturating_duration_since(i.since) >= timeout;
        let expired: VecDeque<Idle<C>> = idle.drain(..idle.partition_point(is_old)).collect();
        let oldest = idle.front().map(|i| i.since);
        if oldest.is_none() {
            shard.remove(&runtime);
        }
        drop(shard);
        drop(expired);
        oldest
    }

    /// Closes all connections of this runtime.
    pub(super) fn clear(&self, runtime: Id) {
        let idle = self.shard(runtime).remove(&runtime);
        drop(idle);
    }

    /// How many connections are idle.
    pub(super) fn len(&self) -> usize {
        let shard =
            |shard: &Mutex<Shard<C>>| -> usize { lock(shard).values().map(VecDeque::len).sum() };
        self.0.iter().map(shard).sum()
    }

    fn shard(&self, runtime: Id) -> MutexGuard<'_, Shard<C>> {
        let hash = BuildHasherDefault::<IdHasher>::default().hash_one(runtime);
        lock(&self.0[(hash >> 60) as usize % SHARDS])
    }
}

fn lock<C>(shard: &Mutex<Shard<C>>) -> MutexGuard<'_, Shard<C>> {
    // Nothing panics while it is held.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
