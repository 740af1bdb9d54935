//! `Store`: the buckets in Redis, with the pauses after failures.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::Quota;
use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, timeout};

use super::{MAX_KEY_LEN, REDIS_PAUSE};

/// The maximum number of concurrent calls, 1,024. Further requests are limited by the front alone.
const MAX_PENDING: usize = 1024;

/// The timeout of a new connection, 1 second. The timeout of a call applies while a request waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// GCRA: the theoretical arrival time of the next request, in microseconds of Redis's clock, is the value of the key.
/// Returns 0, or the microseconds until a request is allowed.
///
/// No request sets it to more than a burst from now. A later time means that the clock was set back, as by a failover to a
/// server whose clock is late, or that the limit was raised: the client would be refused until then.
const GCRA: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = tonumber(redis.call('GET', KEYS[1]) or now)
local latest = now + tolerance + interval + 1
if not (arrival and arrival >= now and arrival <= latest) then arrival = now end
if arrival - now > tolerance then return math.ceil(arrival - now - tolerance) end
arrival = arrival + interval
redis.call('SET', KEYS[1], string.format('%.3f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
return 0
";

/// The error of a limit whose URL is malformed.
#[derive(Debug, thiserror::Error)]
#[error("the URL is not a Redis URL: {0}")]
pub struct SharedLimitError(redis::RedisError);

/// Counters of a shared limit. Returned by [`SharedRateLimitLayer::stats`](super::SharedRateLimitLayer::stats).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SharedLimitStats {
    /// Requests that Redis has allowed.
    pub allowed: u64,
    /// Requests that Redis has refused. Requests that the limit of the front has refused are not counted.
    pub refused: u64,
    /// Requests to which only the limit of the front applied: the call failed, or Redis was not called.
    pub local: u64,
    /// Calls to Redis that have failed or timed out.
    pub failures: u64,
    /// Whether calls to Redis are paused.
    pub is_paused: bool,
}

/// The decision on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    Allowed,
    /// Contains the time until a request is allowed.
    Refused(Duration),
    /// Redis was not called, or the call failed.
    Unknown,
}

pub(super) struct Store {
    client: Client,
    /// Created by the first request, in its runtime.
    connection: OnceLock<ConnectionManager>,
    script: Script,
    prefix: String,
    /// The time between two requests at the rate, in microseconds.
    interval: f64,
    /// The time by which a request may arrive early, in microseconds.
    tolerance: f64,
    timeout: Duration,
    started: Instant,
    /// The end of the pause, in milliseconds since `started`; 0 while Redis works.
    paused_until: AtomicU64,
    allowed: AtomicU64,
    refused: AtomicU64,
    local: AtomicU64,
    failures: AtomicU64,
}

impl Store {
    pub(super) fn new(
        url: &str,
        prefix: String,
        quota: Quota,
        timeout: Duration,
    ) -> Result<Self, SharedLimitError> {
        let interval = (quota.replenish_interval().as_secs_f64() * 1e6).max(1.0);
        Ok(Self {
            client: Client::open(url).map_err(SharedLimitError)?,
            connection: OnceLock::new(),
            script: Script::new(GCRA),
            prefix,
            interval,
            tolerance: interval * f64::from(quota.burst_size().get() - 1),
            timeout,
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            local: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Counts one request in the bucket of `key`.
    pub(super) async fn take(&self, key: &str) -> Decision {
        let decision = match key.len() <= MAX_KEY_LEN && self.try_begin_call() {
            true => self.call(key).await,
            false => Decision::Unknown,
        };
        let counter = match decision {
            Decision::Allowed => &self.allowed,
            Decision::Refused(_) => &self.refused,
            Decision::Unknown => &self.local,
        };
        counter.fetch_add(1, Relaxed);
        decision
    }

    async fn call(&self, key: &str) -> Decision {
        let Some(mut connection) = self.connection() else { return Decision::Unknown };
        let mut script = self.script.key(format!("{}{key}", self.prefix));
        script.arg(self.interval).arg(self.tolerance);
        let result = timeout(self.timeout, script.invoke_async::<u64>(&mut connection)).await;
        match result {
            Ok(Ok(micros)) => {
                if self.paused_until.swap(0, Relaxed) > 0 {
                    tracing::info!("Redis answers again: the rate limit is shared");
                }
                match micros {
                    0 => Decision::Allowed,
                    micros => Decision::Refused(Duration::from_micros(micros)),
                }
            }
            Ok(Err(error)) => self.fail(&error),
            Err(elapsed) => self.fail(&elapsed),
        }
    }

    /// Records a failure, and starts a pause.
    fn fail(&self, error: &dyn fmt::Display) -> Decision {
        self.failures.fetch_add(1, Relaxed);
        if self.paused_until.swap(self.now() + pause(), Relaxed) == 0 {
            tracing::warn!(%error, "Redis does not answer: each front limits rates by itself");
        }
        Decision::Unknown
    }

    /// Returns whether a request may call Redis. After a failure, only one request in each pause may.
    fn try_begin_call(&self) -> bool {
        let (until, now) = (self.paused_until.load(Relaxed), self.now());
        until == 0
            || (now >= until
                && self
                    .paused_until
                    .compare_exchange(until, now + pause(), Relaxed, Relaxed)
                    .is_ok())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn connection(&self) -> Option<ConnectionManager> {
        if let Some(connection) = self.connection.get() {
            return Some(connection.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONNECT_TIMEOUT))
            .set_concurrency_limit(MAX_PENDING);
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config).ok()?;
        Some(self.connection.get_or_init(|| made).clone())
    }

    pub(super) fn stats(&self) -> SharedLimitStats {
        SharedLimitStats {
            allowed: self.allowed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            local: self.local.load(Relaxed),
            failures: self.failures.load(Relaxed),
            is_paused: self.paused_until.load(Relaxed) > self.now(),
        }
    }
}

fn pause() -> u64 {
    u64::try_from(REDIS_PAUSE.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
