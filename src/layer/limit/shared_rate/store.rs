//! `Store`: the buckets in Redis, and when it is asked.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    Client, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, timeout};

use super::{MAX_KEY_LEN, REDIS_PAUSE};

/// The requests that wait for an answer at a time, 1,024. Others are limited by the front alone.
const MAX_PENDING: usize = 1024;

/// The time for a new connection, 1 second. Requests do not wait for it longer than for an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// GCRA: the theoretical arrival time of the next request, in microseconds of Redis's clock, is the value of the key.
/// Returns 0, or the microseconds until a request is allowed.
const GCRA: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
if arrival - now > tolerance then return math.ceil(arrival - now - tolerance) end
arrival = arrival + interval
redis.call('SET', KEYS[1], string.format('%.3f', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1)
return 0
";

/// The limit cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the URL is not one of Redis: {0}")]
pub struct SharedLimitError(redis::RedisError);

/// What a limit has done; returned by [`SharedRateLimitLayer::figures`](super::SharedRateLimitLayer::figures).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SharedLimitFigures {
    /// Requests that Redis has allowed.
    pub allowed: u64,
    /// Requests that Redis has refused. Those that the front's own limit has refused are not counted.
    pub refused: u64,
    /// Requests for which the front's own limit alone counted: without an answer of Redis, or without asking.
    pub local: u64,
    /// Failures of Redis, and answers that came too late.
    pub failures: u64,
    /// Whether Redis is not asked at present.
    pub is_paused: bool,
}

/// An answer about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Allowed,
    /// With the time until a request is allowed.
    Refused(Duration),
    /// Redis was not asked, or has not answered.
    Unknown,
}

pub(super) struct Store {
    client: Client,
    /// Made by the first request, in its runtime.
    connection: OnceLock<ConnectionManager>,
    script: Script,
    prefix: String,
    /// The time between two requests at the rate, and the one by which a request may be early, in microseconds.
    interval: f64,
    tolerance: f64,
    timeout: Duration,
    started: Instant,
    /// Until when Redis is not asked, in milliseconds since `started`; 0 while it works.
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
        (rate, per, burst): (u32, Duration, u32),
        timeout: Duration,
    ) -> Result<Self, SharedLimitError> {
        let interval = (per.as_secs_f64() * 1e6 / f64::from(rate)).max(1.0);
        Ok(Self {
            client: Client::open(url).map_err(SharedLimitError)?,
            connection: OnceLock::new(),
            script: Script::new(GCRA),
            prefix,
            interval,
            tolerance: interval * f64::from(burst - 1),
            timeout,
            started: Instant::now(),
            paused_until: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            local: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// Takes one request from the bucket of `key`.
    pub(super) async fn take(&self, key: &str) -> Answer {
        let answer = match key.len() <= MAX_KEY_LEN && self.may_ask() {
            true => self.ask(key).await,
            false => Answer::Unknown,
        };
        let counter = match answer {
            Answer::Allowed => &self.allowed,
            Answer::Refused(_) => &self.refused,
            Answer::Unknown => &self.local,
        };
        counter.fetch_add(1, Relaxed);
        answer
    }

    async fn ask(&self, key: &str) -> Answer {
        let Some(mut connection) = self.connection() else { return Answer::Unknown };
        let mut call = self.script.key(format!("{}{key}", self.prefix));
        call.arg(self.interval).arg(self.tolerance);
        let result = timeout(self.timeout, call.invoke_async::<u64>(&mut connection)).await;
        match result {
            Ok(Ok(micros)) => {
                if self.paused_until.swap(0, Relaxed) > 0 {
                    tracing::info!("Redis answers again: the rate limit is shared");
                }
                match micros {
                    0 => Answer::Allowed,
                    micros => Answer::Refused(Duration::from_micros(micros)),
                }
            }
            Ok(Err(error)) => self.fail(&error),
            Err(elapsed) => self.fail(&elapsed),
        }
    }

    /// Notes a failure: Redis is not asked for a while.
    fn fail(&self, error: &dyn fmt::Display) -> Answer {
        self.failures.fetch_add(1, Relaxed);
        if self.paused_until.swap(self.now() + pause(), Relaxed) == 0 {
            tracing::warn!(%error, "Redis does not answer: each front limits rates by itself");
        }
        Answer::Unknown
    }

    /// Returns whether a request may ask: all while Redis works, one in each pause otherwise.
    fn may_ask(&self) -> bool {
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

    pub(super) fn figures(&self) -> SharedLimitFigures {
        SharedLimitFigures {
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
        f.debug_struct("Store").field("figures", &self.figures()).finish_non_exhaustive()
    }
}
