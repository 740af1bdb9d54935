//! `RetryLayer`: the options of a [`Retry`].

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use http::Request;
use tower_layer::Layer;

use super::Retry;
use crate::{
    body::Body,
    policy::{backoff::Backoff, retry_budget::RetryBudget},
};

/// How often a request is sent at most, unless set otherwise.
pub const ATTEMPTS: usize = 3;

/// Wraps a service in [`Retry`].
#[derive(Debug, Clone)]
pub struct RetryLayer {
    config: Config,
}

/// Decides whether a request may be sent again.
type Repeatable = Arc<dyn Fn(&Request<Body>) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) attempts: u32,
    pub(super) budget: Option<Arc<RetryBudget>>,
    pub(super) backoff: Backoff,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) total_timeout: Option<Duration>,
    pub(super) repeatable: Option<Repeatable>,
}

impl RetryLayer {
    /// Sends a request up to [`ATTEMPTS`] times, without delay, with a budget of its own.
    pub fn new() -> Self {
        Self {
            config: Config {
                attempts: ATTEMPTS as u32,
                budget: Some(Arc::default()),
                backoff: Backoff::new(Duration::ZERO, Duration::ZERO),
                attempt_timeout: None,
                total_timeout: None,
                repeatable: None,
            },
        }
    }

    /// How often a request is sent at most, at least once. Default [`ATTEMPTS`].
    #[must_use]
    pub fn attempts(mut self, n: usize) -> Self {
        self.config.attempts = u32::try_from(n).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Shares a budget of retries with other layers: one without a retry left returns the error instead.
    /// Default: one of its own, of [`RetryBudget::default`].
    #[must_use]
    pub fn budget(mut self, budget: Arc<RetryBudget>) -> Self {
        self.config.budget = Some(budget);
        self
    }

    /// Removes the budget.
    #[must_use]
    pub fn without_budget(mut self) -> Self {
        self.config.budget = None;
        self
    }

    /// Waits before an attempt, for a random part of the delay of `backoff`, so that requests that failed
    /// together are not sent together. Default: no delay, since another endpoint is tried.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// Bounds the time of each attempt to the head of its response, connecting included. An attempt that
    /// exceeds it has failed, and the request may be sent again. Default: none.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = Some(timeout);
        self
    }

    /// Bounds the time of all attempts together to the head of a response, beside the
    /// [`Deadline`](crate::peer::Deadline) of the request. Default: none.
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.config.total_timeout = Some(timeout);
        self
    }

    /// Lets a request be sent again whose method is not idempotent and which may have been sent, if `allows`
    /// returns `true` for it: the application recognizes a repetition, for example by a field
    /// `Idempotency-Key`.
    #[must_use]
    pub fn repeatable(
        mut self,
        allows: impl Fn(&Request<Body>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.config.repeatable = Some(Arc::new(allows));
        self
    }
}

impl Config {
    /// Returns the delay before the next attempt: a random part of that of the back-off.
    pub(super) fn delay(&self, attempts: u32) -> Duration {
        let delay = self.backoff.delay(attempts);
        if delay.is_zero() {
            return delay;
        }
        // Each state has keys of its own, so that it hashes to a random number.
        let random = RandomState::new().hash_one(attempts) >> 32;
        delay.mul_f64(random as f64 / f64::from(u32::MAX))
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, config: Arc::new(self.config.clone()) }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("attempts", &self.attempts)
            .field("budget", &self.budget)
            .field("backoff", &self.backoff)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("total_timeout", &self.total_timeout)
            .finish_non_exhaustive()
    }
}
