//! `HealthOptions`: when an endpoint counts as failed, and for how long.

use std::time::Duration;

use crate::policy::backoff::Backoff;

/// When endpoints are ejected, and how they come back. The order of the options does not matter.
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
    /// Creates the options with the defaults that are documented at each method.
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

    /// Sets how many consecutive failures eject an endpoint. Default 5; 0: none do. An endpoint that cannot be
    /// reached is ejected by the first failure. Responses that break off are counted separately, since their heads
    /// are successes: so many without a complete one between them eject it too.
    pub const fn consecutive_failures(mut self, n: u32) -> Self {
        self.consecutive_failures = n;
        self
    }

    /// Sets whether a response with a status of 500 or above is such a failure. Default: `false`, since the request
    /// may be its cause. In any case it makes [`PeakEwma`](crate::policy::pick::PeakEwma) less likely to pick the
    /// endpoint.
    pub const fn fail_on_server_error(mut self, on: bool) -> Self {
        self.fail_on_server_error = on;
        self
    }

    /// Sets the duration of an ejection, which grows with each further one that follows soon. Default: 1 s, doubled
    /// up to 30 s.
    pub const fn ejection(mut self, period: Backoff) -> Self {
        self.ejection = period;
        self
    }

    /// Sets how many probes of a half-open endpoint may be in flight. At least 1, the default.
    pub const fn probes(mut self, n: u32) -> Self {
        self.probes = if n == 0 { 1 } else { n };
        self
    }

    /// Sets the duration of the slow start, in which an endpoint that joins or comes back gets a growing part of its
    /// share, a tenth at first. Default: zero, no slow start.
    pub const fn slow_start(mut self, period: Duration) -> Self {
        self.slow_start = period;
        self
    }

    /// Sets how long a response of 503 with `Retry-After` (RFC 9110 section 10.2.3) keeps requests away at most.
    /// Default 30 s; zero ignores the field.
    pub const fn max_retry_after(mut self, period: Duration) -> Self {
        self.max_retry_after = period;
        self
    }

    /// Sets how many endpoints must remain available after an ejection for consecutive failures or as an outlier.
    /// Default 1. It does not apply to an endpoint that cannot be reached.
    pub const fn min_available(mut self, n: usize) -> Self {
        self.min_available = n;
        self
    }

    /// Sets the maximum share of endpoints that such ejections take out, in percent, without those that an operator
    /// drains or has taken out. Default 50.
    pub const fn max_ejected(mut self, percent: u8) -> Self {
        self.max_ejected = percent;
        self
    }

    /// Sets the share of healthy endpoints, in percent, below which requests go to all endpoints (panic mode), since
    /// the healthy ones would be overloaded. Endpoints that an operator drains or has taken out do not count. Default 0:
    /// only when none is healthy.
    pub const fn panic_below(mut self, percent: u8) -> Self {
        self.panic_below = percent;
        self
    }

    /// Sets how many consecutive active checks must succeed before an endpoint that is down is up again, at least 1.
    /// Default 2.
    pub const fn rise(mut self, n: u32) -> Self {
        self.rise = n;
        self
    }

    /// Sets how many consecutive active checks must fail before an endpoint is down, at least 1. Default 3.
    pub const fn fall(mut self, n: u32) -> Self {
        self.fall = n;
        self
    }

    /// Sets the interval after which endpoints are compared with each other. Default 10 s.
    pub const fn outlier_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the minimum number of attempts in an interval for an endpoint to be compared, at least 1. Default 20.
    pub const fn outlier_requests(mut self, n: u32) -> Self {
        self.min_requests = n;
        self
    }

    /// Ejects an endpoint whose share of successes is below `percent` of the median of all. Default 0: none.
    pub const fn outlier_success(mut self, percent: u8) -> Self {
        self.success_below = percent;
        self
    }

    /// Ejects an endpoint whose mean latency exceeds `factor` times the median of all. Default 0: none.
    pub const fn outlier_latency(mut self, factor: u32) -> Self {
        self.latency_factor = factor;
        self
    }

    /// Returns whether endpoints are compared with each other.
    pub const fn has_outliers(&self) -> bool {
        self.success_below > 0 || self.latency_factor > 0
    }

    /// Returns whether one more of `total` endpoints may be ejected, of which `available` are available.
    pub const fn may_eject(&self, available: usize, total: usize) -> bool {
        let ejected = total - available + 1;
        available > self.min_available && ejected * 100 <= total * self.max_ejected as usize
    }

    /// Returns whether panic mode depends on a share of healthy endpoints.
    pub const fn has_panic_share(&self) -> bool {
        self.panic_below > 0
    }

    /// Returns whether requests also go to endpoints that are not healthy.
    pub const fn is_panic(&self, healthy: usize, total: usize) -> bool {
        healthy == 0 || healthy * 100 < total * self.panic_below as usize
    }
}

impl Default for HealthOptions {
    fn default() -> Self {
        Self::new()
    }
}
