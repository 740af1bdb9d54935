//! The errors of limits.

use std::time::Duration;

/// The queue of a concurrency limit was full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} requests are waiting already")]
pub struct QueueFull {
    /// The number of waiting requests.
    pub waiting: usize,
}

/// No permit became free within the queue timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no permit within {0:?}")]
pub struct PermitTimeout(pub Duration);

/// The client has as many requests in flight as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has {limit} requests in flight already")]
pub struct TooManyInFlight {
    /// The limit.
    pub limit: usize,
}

/// The client exceeds its request rate.
///
/// As the source of an error of
/// [`Kind::TooManyRequests`](crate::error::Kind::TooManyRequests) it gives
/// [`rescue`](crate::layer::rescue::response) the value of `retry-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client exceeds its request rate; the next request is allowed in {retry_after:?}")]
pub struct RateLimited {
    /// The time until its next request is allowed.
    pub retry_after: Duration,
}

impl RateLimited {
    /// Returns the time in whole seconds, as in `retry-after` (RFC 9110 section 10.2.3): rounded up, since a
    /// client that retries too early is refused again, and at least 1.
    pub fn retry_after_secs(&self) -> u64 {
        let partial = u64::from(self.retry_after.subsec_nanos() > 0);
        self.retry_after.as_secs().saturating_add(partial).max(1)
    }
}
