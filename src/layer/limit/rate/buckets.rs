//! The buckets of a rate limit, one for each key, bounded in number.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use tokio::time::Instant;

use super::super::sharded::Sharded;

/// The shortest time between two sweeps for idle keys, 1 s. There are sweeps only while there is no room for
/// a new key. A sweep over 65,536 keys takes about a millisecond.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time that a bucket may take to fill, 10 years, so that no sum of such times overflows the
/// 64 bits of nanoseconds (584 years) that governor counts in.
const MAX_FILL_TIME: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// The buckets that all clones share. A trait, so that only the constructors need bounds on `K`.
pub(super) trait Check<K>: Send + Sync {
    /// Takes one request from the bucket of `key`.
    ///
    /// # Errors
    /// The time until the next one is allowed.
    fn check(&self, key: &K) -> Result<(), Duration>;
    /// Returns the number of keys with a bucket.
    fn keys(&self) -> usize;
}

pub(super) struct Buckets<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, Store<K>, TokioClock, NoOpMiddleware<Nanos>>,
    store: Store<K>,
    /// The time of the next sweep, by the limiter's clock.
    next_sweep: AtomicU64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    pub(super) fn new(quota: Quota, max_keys: usize) -> Self {
        let store = Store(Arc::new(States {
            keys: Sharded::new(),
            len: AtomicUsize::new(0),
            max: max_keys,
            shared_bucket: InMemoryState::default(),
        }));
        let limiter = RateLimiter::new(quota, store.clone(), TokioClock(Instant::now()));
        Self { limiter, store, next_sweep: AtomicU64::new(0) }
    }

    /// Removes idle keys if a sweep is due. Of concurrent callers only one sweeps.
    fn sweep(&self) {
        let now = self.limiter.clock().now();
        let due = self.next_sweep.load(Relaxed);
        let next = now.as_u64() + SWEEP_INTERVAL.as_nanos() as u64;
        if now.as_u64() >= due
            && self.next_sweep.compare_exchange(due, next, Relaxed, Relaxed).is_ok()
        {
            self.store.0.remove_idle(now);
        }
    }
}

impl<K: Hash + Eq + Clone + Send> Check<K> for Buckets<K> {
    fn check(&self, key: &K) -> Result<(), Duration> {
        if self.store.0.is_full() {
            self.sweep();
        }
        self.limiter
            .check_key(key)
            .map_err(|not_until| not_until.wait_time_from(self.limiter.clock().now()))
    }

    fn keys(&self) -> usize {
        self.store.0.len.load(Relaxed)
    }
}

/// Returns the quota of `rate` requests in each `per` and `burst` at once, each clamped to a valid value.
pub(super) fn quota(rate: u32, per: Duration, burst: u32) -> Quota {
    let interval = (per / rate.max(1)).clamp(Duration::from_nanos(1), MAX_FILL_TIME);
    let max_burst =
        u32::try_from(MAX_FILL_TIME.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
    let burst = NonZeroU32::new(burst.min(max_burst)).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(interval).expect("it is not zero").allow_burst(burst)
}

/// Tokio's clock, which tests can pause, counted from the creation of the limit.
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.elapsed().as_nanos().try_into().unwrap_or(u64::MAX))
    }
}

/// The time at which each bucket will be full, which is its whole state (GCRA).
struct States<K> {
    keys: Sharded<K, Nanos>,
    /// The keys of all shards; counted before an insertion, so it never exceeds `max`.
    len: AtomicUsize,
    max: usize,
    /// The bucket of all keys that there is no room for.
    shared_bucket: InMemoryState,
}

impl<K> States<K> {
    fn is_full(&self) -> bool {
        self.len.load(Relaxed) >= self.max
    }

    /// Removes the buckets that are full, since new buckets are equal.
    fn remove_idle(&self, now: Nanos) {
        for mut shard in self.keys.shards() {
            let before = shard.len();
            shard.retain(|_, full_at| *full_at > now);
            self.len.fetch_sub(before - shard.len(), Relaxed);
        }
    }
}

/// A store for governor, whose own stores are unbounded or have one lock.
struct Store<K>(Arc<States<K>>);

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Hash + Eq + Clone> StateStore for Store<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let states = &*self.0;
        let mut shard = states.keys.shard(key);
        if let Some(full_at) = shard.get_mut(key) {
            let (outcome, next) = f(Some(*full_at))?;
            *full_at = next;
            return Ok(outcome);
        }
        let (outcome, next) = f(None)?;
        let one_more = |n| (n < states.max).then(|| n + 1);
        if states.len.fetch_update(Relaxed, Relaxed, one_more).is_ok() {
            shard.insert(key.clone(), next);
            return Ok(outcome);
        }
        drop(shard);
        states.shared_bucket.measure_and_replace(&NotKeyed::NonKey, f)
    }
}
