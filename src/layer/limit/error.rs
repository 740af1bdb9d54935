//! The errors of limits.

use std::time::Duration;

pub use crate::semantics::problem::RateLimited;

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
