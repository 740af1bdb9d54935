//! Options of a queue, and the priority of its requests.

use std::time::Duration;

use http::Request;

/// Default timeout in the queue: 10 s, as in the queue of a worker pool.
pub const BALANCE_QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The priority of a request in the queue of a balancer: an extension of the request, set by a layer of the
/// application. Without it a request has [`Normal`](Self::Normal) priority.
///
/// ```
/// use vestibule::{Body, Request, upstream::Priority};
///
/// let mut request = Request::new(Body::empty());
/// request.extensions_mut().insert(Priority::High);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// After all others. In a full queue, other requests displace it.
    Low,
}

impl Priority {
    pub(in crate::upstream) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }
}

/// The maximum number of requests that wait for an endpoint, and their timeout.
///
/// Requests of a higher [priority](Priority) come first, requests of the same priority in the order of their arrival.
/// In a full queue a request displaces the last one of a lower priority, if there is one.
///
/// ```
/// use std::time::Duration;
/// use vestibule::upstream::QueueOptions;
///
/// let options = QueueOptions::new(1000).timeout(Duration::from_secs(2));
/// # drop(options);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct QueueOptions {
    pub(super) bound: usize,
    pub(super) timeout: Duration,
}

impl QueueOptions {
    /// Creates a queue of at most `bound` requests, with the timeout [`BALANCE_QUEUE_TIMEOUT`].
    pub const fn new(bound: usize) -> Self {
        Self { bound, timeout: BALANCE_QUEUE_TIMEOUT }
    }

    /// Sets the timeout in the queue. A [`Deadline`](crate::peer::Deadline) of the request may end it sooner. Default
    /// [`BALANCE_QUEUE_TIMEOUT`].
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}
