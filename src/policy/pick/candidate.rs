//! `Candidate`: an endpoint as a policy sees it.

use std::time::Duration;

/// An endpoint as it is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its key, which stays the same when other endpoints come and go.
    pub key: &'a str,
    /// Its share of the requests, relative to the other weights. At least 1.
    pub weight: u32,
    /// The part of its weight that counts at present, in thousandths: below 1000 during a slow start.
    pub ramp: u16,
    /// Its tier: 0 is used first, 1 is the backup of 0, and so on.
    pub tier: u8,
    /// Its zone; empty if it has none.
    pub zone: &'a str,
    /// Requests that it is answering now.
    pub in_flight: usize,
    /// Its recent time to the head of a response, which rises at once and falls slowly; zero if it is not
    /// known.
    pub latency: Duration,
    /// The part of its recent attempts that succeeded, in thousandths.
    pub success: u16,
    /// Whether it is expected to work and has room. If too few endpoints are expected to work, all of them
    /// are presented so.
    pub is_available: bool,
    /// Whether it is being drained: only requests of sessions that are bound to it go there.
    pub is_draining: bool,
    /// Whether this request has been tried there.
    pub is_tried: bool,
}

impl<'a> Candidate<'a> {
    /// An idle candidate of weight 1 that is available and untried.
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

    /// Whether a request may go there: it is available, not being drained, and this request was not tried
    /// there.
    pub const fn is_eligible(&self) -> bool {
        self.is_available && !self.is_draining && !self.is_tried
    }

    /// Whether a request of a session that is bound to it may go there: as for any request, also while it
    /// is being drained.
    pub const fn is_eligible_for_session(&self) -> bool {
        self.is_available && !self.is_tried
    }

    /// Returns the weight times the ramp, so in thousandths. At least 1.
    pub fn effective_weight(&self) -> u64 {
        (u64::from(self.weight.max(1)) * u64::from(self.ramp.min(1000))).max(1)
    }

    /// Whether one more request is a smaller load here than at `other`, by weight.
    pub(super) fn is_less_loaded_than(&self, other: &Self) -> bool {
        let load = |of: &Self, weight: u64| (of.in_flight as u128 + 1) * u128::from(weight);
        // a / v < b / w, multiplied by both weights.
        load(self, other.effective_weight()) < load(other, self.effective_weight())
    }
}
