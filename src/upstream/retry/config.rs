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

/// Default maximum number of attempts: 3.
pub const ATTEMPTS: usize = 3;

/// Wraps a service in [`Retry`].
#[derive(Debug, Clone)]
pub struct RetryLayer {
    config: Config,
}

/// Returns whether a request may be sent again.
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
    /// Creates a layer that makes up to [`ATTEMPTS`] attempts, without delay, with its own budget.
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

    /// Sets the maximum number of attempts, at least 1. Default [`ATTEMPTS`].
    #[must_use]
    pub fn attempts(mut self, n: usize) -> Self {
        self.config.attempts = u32::try_from(n).unwrap_or(u32::MAX).max(1);
        self
    }

    /// Sets a budget of retries that is shared with other layers. Without a retry left, the error is returned.
    /// Default: its own budget, [`RetryBudget::default`].
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

    /// Sets the delay before an attempt: a random part of the delay of `backoff`, so that requests that failed
    /// together are not repeated together. Default: no delay, since another endpoint is tried.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.config.backoff = backoff;
        self
    }

    /// Sets the timeout of each attempt, from connecting to the head of the response, as its
    /// [`Deadline`](crate::peer::Deadline). The wait in the [queue](super::super::BalanceBuilder::queue) of a balancer is not
    /// part of an attempt, and has a timeout of its own. An [`Endpoint`](super::super::Endpoint) ends an attempt 10 ms after
    /// the timeout, whatever its service; other services must observe it. The request may be sent again if the service returns it, as
    /// [`Remote`](super::super::Remote) does. Default: none.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = Some(timeout);
        self
    }

    /// Sets the timeout of all attempts together, up to the head of a response, in addition to the
    /// [`Deadline`](crate::peer::Deadline) of the request. It ends the current attempt as
    /// [`attempt_timeout`](Self::attempt_timeout) does, and no delay continues beyond it. Default: none.
    #[must_use]
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.config.total_timeout = Some(timeout);
        self
    }

    /// Allows another attempt for requests that are not idempotent and may have been sent, if `allows` returns
    /// `true`: for applications that recognize a repetition, for example by a field `Idempotency-Key`.
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
        // Each `RandomState` has its own keys, so its hash is a random number.
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
