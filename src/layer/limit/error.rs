//! Why a limit refused a request.

use std::time::Duration;

/// As many requests waited for a place as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} requests wait already")]
pub struct QueueFull {
    /// How many waited.
    pub waiting: usize,
}

/// No permit became free within the queue timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no permit within {0:?}")]
pub struct PermitTimeout(pub Duration);

/// As many requests of this client are being answered as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has {limit} requests in flight already")]
pub struct TooManyInFlight {
    /// The bound.
    pub limit: usize,
}

/// The client asks too often.
///
/// As the source of an error of
/// [`Kind::TooManyRequests`](crate::error::Kind::TooManyRequests) it tells
/// [`rescue`](crate::layer::rescue::response) what to say in `retry-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client may ask again in {retry_after:?}")]
pub struct RateLimited {
    /// In how long its next request will be allowed.
    pub retry_after: Duration,
}

impl RateLimited {
    /// That time in whole seconds as `retry-after` has it (RFC 9110 section 10.2.3): rounded up,
    /// since a client that comes too early is refused again, and at least 1.
    pub fn retry_after_secs(&self) -> u64 {
        let begun = u64::from(self.retry_after.subsec_nanos() > 0);
        self.retry_after.as_secs().saturating_add(begun).max(1)
    }
}
