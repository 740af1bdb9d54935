//! `EndpointLimits`: limits of concurrent requests of an endpoint.

/// Limits of concurrent requests of one endpoint (a circuit breaker). An endpoint at a limit is not picked; when all
/// are, requests wait in the [queue](crate::upstream::BalanceBuilder::queue), or fail.
///
/// The number of connections to a server is limited by its [`PoolConfig`](crate::upstream::PoolConfig).
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
    /// Creates limits that do not apply.
    pub const fn new() -> Self {
        Self { in_flight: usize::MAX, pending: usize::MAX }
    }

    /// Sets the maximum number of requests until the end of their response's body; 0 allows none. Default: no limit.
    pub const fn in_flight(mut self, n: usize) -> Self {
        self.in_flight = n;
        self
    }

    /// Sets the maximum number of requests without the head of their response: they wait for a connection, for the
    /// service's readiness, or for the application. Default: no limit.
    pub const fn pending(mut self, n: usize) -> Self {
        self.pending = n;
        self
    }

    /// Returns the maximum number of requests until the end of their response's body.
    pub const fn max_in_flight(&self) -> usize {
        self.in_flight
    }

    /// Returns the maximum number of requests without the head of their response.
    pub const fn max_pending(&self) -> usize {
        self.pending
    }
}

impl Default for EndpointLimits {
    fn default() -> Self {
        Self::new()
    }
}
