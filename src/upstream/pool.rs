//! Idle connections to one server, apart for each runtime.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::Id;

use crate::{conn::h1::client::Connection, net::Stream};

/// Locks, so that runtimes of different threads seldom meet at one.
const SHARDS: usize = 16;

/// Newest first: the rest grow old and are dropped, so a burst's connections do not stay.
#[derive(Debug, Default)]
pub(super) struct Pool([Mutex<Shard>; SHARDS]);

type Shard = HashMap<Id, VecDeque<Idle>, BuildHasherDefault<IdHasher>>;

/// Spreads a runtime's number; nobody outside chooses it, so it needs no secret.
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

#[derive(Debug)]
struct Idle {
    connection: Connection<Stream>,
    since: Instant,
}

impl Pool {
    /// The connection of this runtime that was used last, if it is younger than `oldest`.
    pub(super) fn take(
        &self,
        runtime: Id,
        now: Instant,
        oldest: Duration,
    ) -> Option<Connection<Stream>> {
        let mut shard = self.shard(runtime);
        let idle = shard.get_mut(&runtime)?;
        let newest = idle.pop_back()?;
        if now.saturating_duration_since(newest.since) < oldest {
            return Some(newest.connection);
        }
        let expired = shard.remove(&runtime); // the others are older still
        drop(shard);
        drop(expired);
        None
    }

    /// Keeps a connection, and drops the oldest above `keep` or older than `oldest`.
    pub(super) fn put(
        &self,
        runtime: Id,
        connection: Connection<Stream>,
        now: Instant,
        keep: usize,
        oldest: Duration,
    ) {
        let mut shard = self.shard(runtime);
        let idle = shard.entry(runtime).or_default();
        idle.push_back(Idle { connection, since: now });
        let is_old = |i: &Idle| now.saturating_duration_since(i.since) >= oldest;
        let surplus = if idle.len() > keep || idle.front().is_some_and(is_old) {
            idle.pop_front() // one a time is enough: one came
        } else {
            None
        };
        drop(shard);
        drop(surplus);
    }

    fn shard(&self, runtime: Id) -> MutexGuard<'_, Shard> {
        let hash = BuildHasherDefault::<IdHasher>::default().hash_one(runtime);
        let shard = &self.0[(hash >> 60) as usize % SHARDS];
        // Nothing panics while it is held.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
