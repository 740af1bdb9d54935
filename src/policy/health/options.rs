//! `HealthOptions`: when an endpoint counts as failed, and for how long.

use std::time::Duration;

use crate::policy::backoff::Backoff;

/// When endpoints are ejected, and how they come back. The order of options does not matter.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::health::HealthOptions;
///
/// let options = HealthOptions::new()
///     .consecutive_failures(3)
///     .slow_start(Duration::from_secs(30))
///     .min_available(2);
/// # drop(options);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct HealthOptions {
    pub(crate) consecutive_failures: u32,
    pub(crate) fail_on_server_error: bool,
    pub(crate) ejection: Backoff,
    pub(crate) probes: u32,
    pub(crate) slow_start: Duration,
    pub(crate) max_retry_after: Duration,
    pub(crate) min_available: usize,
    pub(crate) max_ejected: u8,
    pub(crate) panic_below: u8,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) interval: Duration,
    pub(crate) min_requests: u32,
    pub(crate) success_below: u8,
    pub(crate) latency_factor: u32,
}

impl HealthOptions {
    /// The defaults, which the methods name.
    pub const fn new() -> Self {
        Self {
            consecutive_failures: 5,
            fail_on_server_error: false,
            ejection: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            probes: 1,
            slow_start: Duration::ZERO,
            max_retry_after: Duration::from_secs(30),
            min_available: 1,
            max_ejected: 50,
            panic_below: 0,
            rise: 2,
            fall: 3,
            interval: Duration::from_secs(10),
            min_requests: 20,
            success_below: 0,
            latency_factor: 0,
        }
    }

    /// Failures in a row that eject an endpoint; 0: none do. An endpoint that cannot be reached is ejected by
    /// the first. Default 5.
    pub const fn consecutive_failures(mut self, n: u32) -> Self {
        self.consecutive_failures = n;
        self
    }

    /// Whether a response with a status of 500 or above is such a failure. Default: no, since it may be the
    /// fault of the request. It makes an endpoint less likely to be picked by
    /// [`PeakEwma`](crate::policy::pick::PeakEwma) in any case.
    pub const fn fail_on_server_error(mut self, on: bool) -> Self {
        self.fail_on_server_error = on;
        self
    }

    /// How long an ejection lasts; longer with each one that follows soon. Default: 1 s, doubled up to 30 s.
    pub const fn ejection(mut self, period: Backoff) -> Self {
        self.ejection = period;
        self
    }

    /// How many attempts at a time may try whether an ejected endpoint works again; at least 1, the default.
    pub const fn probes(mut self, n: u32) -> Self {
        self.probes = if n == 0 { 1 } else { n };
        self
    }

    /// How long an endpoint that joins or comes back gets a growing part of its share, a tenth at first.
    /// Default: zero, at once all of it.
    pub const fn slow_start(mut self, period: Duration) -> Self {
        self.slow_start = period;
        self
    }

    /// How long a response of 503 with `Retry-After` (RFC 9110 section 10.2.3) keeps requests away at most.
    /// Default 30 s; zero ignores the field.
    pub const fn max_retry_after(mut self, period: Duration) -> Self {
        self.max_retry_after = period;
        self
    }

    /// How many endpoints must be left available by an ejection for failures in a row or as an outlier.
    /// Default 1. An endpoint that cannot be reached is ejected all the same.
    pub const fn min_available(mut self, n: usize) -> Self {
        self.min_available = n;
        self
    }

    /// Which part of the endpoints such ejections take out at most, in percent. Default 50.
    pub const fn max_ejected(mut self, percent: u8) -> Self {
        self.max_ejected = percent;
        self
    }

    /// Panic mode: while fewer than this part of the endpoints are healthy, in percent, requests go to all of
    /// them, since the few would be overwhelmed. Default 0: only when none is healthy.
    pub const fn panic_below(mut self, percent: u8) -> Self {
        self.panic_below = percent;
        self
    }

    /// Active checks in a row that must succeed until an endpoint is up again. Default 2.
    pub const fn rise(mut self, n: u32) -> Self {
        self.rise = n;
        self
    }

    /// Active checks in a row that must fail until an endpoint is down. Default 3.
    pub const fn fall(mut self, n: u32) -> Self {
        self.fall = n;
        self
    }

    /// How long attempts are counted before endpoints are compared with each other. Default 10 s.
    pub const fn outlier_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Attempts in an interval without which an endpoint is not compared. Default 20.
    pub const fn outlier_requests(mut self, n: u32) -> Self {
        self.min_requests = n;
        self
    }

    /// Ejects an endpoint whose share of successes is below this part of the median of all, in percent.
    /// Default 0: none.
    pub const fn outlier_success(mut self, percent: u8) -> Self {
        self.success_below = percent;
        self
    }

    /// Ejects an endpoint whose mean latency is more than this many times the median of all. Default 0: none.
    pub const fn outlier_latency(mut self, factor: u32) -> Self {
        self.latency_factor = factor;
        self
    }

    /// Whether endpoints are compared with each other.
    pub const fn has_outliers(&self) -> bool {
        self.success_below > 0 || self.latency_factor > 0
    }

    /// Whether one more of `total` endpoints may be ejected when so many are available.
    pub const fn may_eject(&self, available: usize, total: usize) -> bool {
        let ejected = total - available + 1;
        available > self.min_available && ejected * 100 <= total * self.max_ejected as usize
    }

    /// Whether a share of healthy endpoints begins panic mode.
    pub const fn has_panic_share(&self) -> bool {
        self.panic_below > 0
    }

    /// Whether requests go to endpoints that are not healthy, too.
    pub const fn is_panic(&self, healthy: usize, total: usize) -> bool {
        healthy == 0 || healthy * 100 < total * self.panic_below as usize
    }
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self::new()
    }
}
