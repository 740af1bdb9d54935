//! `Pool`: the idle connections to one server, by runtime.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::Id;

use super::{capacity::Open, idle_limit::IdleLimit};

/// Number of locks: 16, so that runtimes on different threads rarely contend.
const SHARDS: usize = 16;

/// The idle connections of all runtimes.
///
/// The newest connection is used first, so that the others become old after a burst and are closed. A runtime has an
/// entry while it has a [`Reaper`](super::reaper::Reaper).
pub(super) struct Pool<C> {
    shards: [Mutex<Shard<C>>; SHARDS],
    limit: IdleLimit,
}

type Shard<C> = HashMap<Id, VecDeque<Idle<C>>, BuildHasherDefault<IdHasher>>;

/// Hashes a runtime's id. Peers cannot choose it, so the hash needs no random key.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(b.into()));
    }

    fn write_u64(&mut self, n: u64) {
        // 2^64 divided by the golden ratio, which spreads consecutive numbers.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An idle connection.
pub(super) struct Idle<C> {
    pub(super) connection: C,
    pub(super) since: Instant,
    // After the connection, so that it is dropped after it.
    pub(super) open: Option<Open>,
}

/// The actions that [`Pool::checkin`] requires of its caller.
pub(super) struct CheckedIn {
    /// The connection is the first one of a runtime without a reaper.
    pub(super) is_first: bool,
    /// The limit is exceeded: one connection must be evicted.
    pub(super) is_over_limit: bool,
}

impl<C> Pool<C> {
    pub(super) fn new(limit: IdleLimit) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), limit }
    }

    /// Checks out the connection of this runtime that was used last, if it has been idle for less than `timeout`.
    pub(super) fn checkout(&self, runtime: Id, now: Instant, timeout: Duration) -> Option<Idle<C>> {
        let mut shard = self.shard(runtime);
        let idle = shard.get_mut(&runtime)?;
        let newest = idle.pop_back()?;
        if now.saturating_duration_since(newest.since) < timeout {
            drop(shard);
            self.limit.discount(1);
            return Some(newest);
        }
        // The others are older; the reaper has not run yet.
        let expired = std::mem::take(idle);
        drop(shard);
        self.limit.discount(1 + expired.len());
        drop((newest, expired));
        None
    }

    /// Checks in a connection, and closes the oldest if there are more than `keep`.
    pub(super) fn checkin(&self, runtime: Id, connection: Idle<C>, keep: usize) -> CheckedIn {
        if keep == 0 {
            return CheckedIn { is_first: false, is_over_limit: false };
        }
        let mut shard = self.shard(runtime);
        let (idle, is_first) = match shard.entry(runtime) {
            Entry::Occupied(entry) => (entry.into_mut(), false),
            Entry::Vacant(entry) => (entry.insert(VecDeque::new()), true),
        };
        let surplus = if idle.len() >= keep { idle.pop_front() } else { None };
        // Before another thread can see the connection, which it may take and count as gone.
        let is_over_limit = surplus.is_none() && self.limit.count_one();
        idle.push_back(connection);
        drop(shard);
        drop(surplus);
        CheckedIn { is_first, is_over_limit }
    }

    /// Closes the connections of this runtime that have been idle for `timeout`. Returns the time since which the
    /// oldest remaining one is idle. Without any, removes the entry of the runtime.
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
        self.limit.discount(expired.len());
        drop(expired);
        oldest
    }

    /// Closes all connections of this runtime.
    pub(super) fn clear(&self, runtime: Id) {
        let idle = self.shard(runtime).remove(&runtime).unwrap_or_default();
        self.limit.discount(idle.len());
        drop(idle);
    }

    /// Returns the time since which the oldest connection of all runtimes has been idle.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let oldest = |shard: &Mutex<Shard<C>>| {
            let shard = lock(shard);
            shard.values().filter_map(|idle| Some(idle.front()?.since)).min()
        };
        self.shards.iter().filter_map(oldest).min()
    }

    /// Closes the oldest connection of all runtimes, or of one runtime if others changed meanwhile. Returns
    /// whether there was one.
    pub(super) fn evict_oldest(&self) -> bool {
        let Some(oldest) = self.oldest() else { return false };
        for shard in &self.shards {
            let mut shard = lock(shard);
            let front = |idle: &&mut VecDeque<Idle<C>>| {
                idle.front().is_some_and(|front| front.since <= oldest)
            };
            let evicted = shard.values_mut().find(front).and_then(VecDeque::pop_front);
            drop(shard);
            if evicted.is_some() {
                self.limit.discount(1);
                return true;
            }
        }
        self.oldest().is_some() && self.evict_oldest()
    }

    /// Returns the number of idle connections.
    pub(super) fn len(&self) -> usize {
        let shard =
            |shard: &Mutex<Shard<C>>| -> usize { lock(shard).values().map(VecDeque::len).sum() };
        self.shards.iter().map(shard).sum()
    }

    fn shard(&self, runtime: Id) -> MutexGuard<'_, Shard<C>> {
        let hash = BuildHasherDefault::<IdHasher>::default().hash_one(runtime);
        lock(&self.shards[(hash >> 60) as usize % SHARDS])
    }
}

impl<C> Drop for Pool<C> {
    fn drop(&mut self) {
        self.limit.discount(self.len());
    }
}

fn lock<C>(shard: &Mutex<Shard<C>>) -> MutexGuard<'_, Shard<C>> {
    // Nothing panics while the lock is held.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tokio::runtime::Handle;

    use super::*;
    use crate::net::clock;

    #[tokio::test]
    async fn idle_connections_are_counted_before_they_can_be_taken() {
        let (here, now, limit) = (Handle::current().id(), clock::now(), IdleLimit::new(100));
        let (pool, is_done) = (Pool::new(limit.clone()), AtomicBool::new(false));
        let most = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Relaxed) {
                    pool.evict_oldest();
                }
            });
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !is_done.load(Relaxed) {
                    most = most.max(limit.idle());
                }
                most
            });
            for _ in 0..300_000 {
                pool.checkin(here, Idle { connection: (), since: now, open: None }, 10);
            }
            is_done.store(true, Relaxed);
            watch.join().unwrap()
        });
        assert!(most <= 20, "{most}");
    }
}
