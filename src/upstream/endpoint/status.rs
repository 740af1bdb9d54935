//! `EndpointStatus`: what a status page shows of an endpoint.

use std::{sync::Arc, time::Duration};

use super::{EndpointKey, EndpointLimits};
use crate::policy::health::Phase;

/// An endpoint at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointStatus {
    /// Its key.
    pub key: EndpointKey,
    /// Its share of the requests, relative to the others.
    pub weight: u32,
    /// Its tier; 0 is used first.
    pub tier: u8,
    /// Its zone; empty if it has none.
    pub zone: Arc<str>,
    /// What is known of its health. Times are since the endpoint was made: see
    /// [`available_in`](Self::available_in).
    pub phase: Phase,
    /// How long it gets no requests yet; `None` if it gets some, or if the end is not known.
    pub available_in: Option<Duration>,
    /// Requests under way, response bodies included.
    pub in_flight: usize,
    /// Those of them without a response's head.
    pub pending: usize,
    /// Its limits.
    pub limits: EndpointLimits,
    /// Its recent peak latency to a response's head; zero if it is not known.
    pub latency: Duration,
    /// The part of its recent attempts that succeeded, in thousandths.
    pub success: u16,
    /// Requests since it was made, those under way included.
    pub requests: u64,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Its last failures, the newest first; at most [`LAST_ERRORS`](super::LAST_ERRORS).
    pub last_errors: Vec<EndpointError>,
}

/// A failure of an endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointError {
    /// What failed, and why.
    pub text: Arc<str>,
    /// How long ago it was.
    pub age: Duration,
}
