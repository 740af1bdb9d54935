//! `EndpointStatus`: the status of an endpoint, for a status page.

use std::{sync::Arc, time::Duration};

use super::{EndpointKey, EndpointLimits};
use crate::policy::health::Phase;

/// The status of an endpoint at a point in time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// The key.
    pub key: EndpointKey,
    /// The share of the requests, relative to the others.
    pub weight: u32,
    /// The tier; 0 is used first.
    pub tier: u8,
    /// The zone; empty without one.
    pub zone: Arc<str>,
    /// The state of its health. Times are since the endpoint was created: see [`available_in`](Self::available_in).
    pub phase: Phase,
    /// The time until it gets requests again; `None` if it gets some, or if the time is unknown.
    pub available_in: Option<Duration>,
    /// Requests in flight, until the end of their response's body.
    pub in_flight: usize,
    /// Requests among them without the head of their response.
    pub pending: usize,
    /// The limits.
    pub limits: EndpointLimits,
    /// The recent peak time from the end of a request to the head of its response; zero if it is unknown.
    pub latency: Duration,
    /// The share of recent attempts that succeeded, in thousandths.
    pub success: u16,
    /// Requests since it was created, including those in flight.
    pub requests: u64,
    /// Consecutive failed attempts.
    pub failures: u32,
    /// The last failures, newest first; at most [`LAST_ERRORS`](super::LAST_ERRORS).
    pub last_errors: Vec<EndpointError>,
}

/// A failure of an endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointError {
    /// The failure and its cause.
    pub text: Arc<str>,
    /// The time since the failure.
    pub age: Duration,
}
