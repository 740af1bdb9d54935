//! `Candidate`: the state of an endpoint for a policy.

use std::time::Duration;

/// The state of an endpoint at the time of a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// The key, which does not change when other endpoints are added or removed.
    pub key: &'a str,
    /// The share of the requests, relative to the other weights. At least 1.
    pub weight: u32,
    /// The effective part of the weight, in thousandths: below 1,000 in a slow start.
    pub ramp: u16,
    /// The tier: 0 is used first, 1 is the backup of 0, and so on.
    pub tier: u8,
    /// The zone; empty without one.
    pub zone: &'a str,
    /// Requests in flight.
    pub in_flight: usize,
    /// The recent peak time from the end of a request to the head of its response, which decays slowly; zero if it is
    /// unknown.
    pub latency: Duration,
    /// The share of recent attempts that succeeded, in thousandths.
    pub success: u16,
    /// Whether it is healthy and below its limits. In panic mode all endpoints count as healthy.
    pub is_available: bool,
    /// Whether it is draining: it gets only requests of sessions that are bound to it.
    pub is_draining: bool,
    /// Whether this request was already tried there.
    pub is_tried: bool,
}

impl<'a> Candidate<'a> {
    /// Creates an idle candidate of weight 1 that is available and untried.
    pub const fn new(key: &'a str) -> Self {
        Self {
            key,
            weight: 1,
            ramp: 1000,
            tier: 0,
            zone: "",
            in_flight: 0,
            latency: Duration::ZERO,
            success: 1000,
            is_available: true,
            is_draining: false,
            is_tried: false,
        }
    }

    /// Returns whether it may get the request: it is available, not draining and untried.
    pub const fn is_eligible(&self) -> bool {
        // `&` has no branch, which policies that draw at random would pay for by wrong predictions.
        self.is_available & !self.is_draining & !self.is_tried
    }

    /// Returns whether it may get a request of a session that is bound to it: like any request, but also while it is
    /// draining.
    pub const fn is_eligible_for_session(&self) -> bool {
        self.is_available && !self.is_tried
    }

    /// Returns the product of weight and ramp, in thousandths. At least 1.
    pub fn effective_weight(&self) -> u64 {
        (u64::from(self.weight.max(1)) * u64::from(self.ramp.min(1000))).max(1)
    }

    /// Returns whether one more request is a smaller load here than on `other`, relative to the weights.
    pub(super) fn is_less_loaded_than(&self, other: &Self) -> bool {
        let load = |of: &Self, weight: u64| (of.in_flight as u128 + 1) * u128::from(weight);
        // a / v < b / w, multiplied by both weights.
        load(self, other.effective_weight()) < load(other, self.effective_weight())
    }
}
