//! `EndpointLimits`: how many requests an endpoint takes at a time.

/// Bounds on what one endpoint is given at a time: its circuit breaker. An endpoint at a limit is not picked;
/// when all are, requests wait in the [queue](crate::upstream::BalanceBuilder::queue), or fail.
///
/// How many connections a server gets is bound by its [`Remote`](crate::upstream::Remote).
///
/// ```
/// use vestibule::upstream::EndpointLimits;
///
/// let limits = EndpointLimits::new().in_flight(100).pending(20);
/// assert_eq!((limits.max_in_flight(), limits.max_pending()), (100, 20));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct EndpointLimits {
    in_flight: usize,
    pending: usize,
}

impl EndpointLimits {
    /// No limits.
    pub const fn new() -> Self {
        Self { in_flight: usize::MAX, pending: usize::MAX }
    }

    /// Requests until the end of their response's body; 0: none at all. Default: no limit.
    pub const fn in_flight(mut self, n: usize) -> Self {
        self.in_flight = n;
        self
    }

    /// Requests without a response's head, so those that wait for a connection, for the service's readiness, or
    /// for the application. Default: no limit.
    pub const fn pending(mut self, n: usize) -> Self {
        self.pending = n;
        self
    }

    /// Requests until the end of their response's body.
    pub const fn max_in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests without a response's head.
    pub const fn max_pending(&self) -> usize {
        self.pending
    }
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self::new()
    }
}
