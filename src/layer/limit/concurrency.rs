//! `ConcurrencyLimit`: limits the requests in a service; others wait in a FIFO queue.

mod future;
mod permits;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tower_layer::Layer;
use tower_service::Service;

pub use self::future::ResponseFuture;
use self::{
    future::State,
    permits::{Permit, Permits},
};
use super::error::{PermitTimeout, QueueFull};
use crate::{
    HttpService, Request, Response,
    error::{BoxError, Error, Kind},
    net::Gate,
    policy::gradient::Gradient,
};

/// The default number of requests that may wait for each permit, 64, as for each
/// [worker](crate::worker). At 10 ms for each request the last one waits 0.6 s; a longer queue would only
/// serve clients that have given up.
pub const QUEUE_PER_PERMIT: usize = 64;

/// The default time that a request may wait for a permit, 10 s: about as long as a person waits before
/// reloading the page.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit of a [`ConcurrencyLimit`].
#[derive(Debug, Clone)]
pub enum Limit {
    /// This number of requests, at least one.
    Fixed(usize),
    /// As many requests as the inner service can work on, estimated from its latency up to the head of the
    /// response. See [`Gradient`] for the algorithm and its bounds.
    ///
    /// Each response is a sample, whatever its status, and so is each [`Kind::Timeout`]; other errors and
    /// dropped requests are not. A long body holds its permit but does not count as latency. When the
    /// limit falls, the requests inside continue: no permit is free before enough of them have ended.
    Adaptive(Gradient),
}

impl From<usize> for Limit {
    fn from(n: usize) -> Self {
        Self::Fixed(n)
    }
}

impl From<Gradient> for Limit {
    fn from(gradient: Gradient) -> Self {
        Self::Adaptive(gradient)
    }
}

/// Wraps a service in [`ConcurrencyLimit`]. All services that it and its clones make share the
/// permits.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimitLayer(Arc<Shared>);

/// The state that all handles of one limit share.
#[derive(Debug)]
struct Shared {
    permits: Arc<Permits>,
    /// The length of the queue; `None` for [`QUEUE_PER_PERMIT`] times the limit.
    queue: Option<usize>,
    queue_timeout: Duration,
}

impl ConcurrencyLimitLayer {
    /// Creates a fixed or adaptive limit with the default queue.
    ///
    /// ```
    /// use vestibule::{layer::ConcurrencyLimitLayer, policy::gradient::Gradient};
    ///
    /// let fixed = ConcurrencyLimitLayer::new(100);
    /// let adaptive = ConcurrencyLimitLayer::new(Gradient::new().max(200));
    /// # drop((fixed, adaptive));
    /// ```
    pub fn new(limit: impl Into<Limit>) -> Self {
        Self::builder(limit).build()
    }

    /// Returns a builder for a limit with options.
    pub fn builder(limit: impl Into<Limit>) -> ConcurrencyLimitBuilder {
        ConcurrencyLimitBuilder { limit: limit.into(), queue: None, queue_timeout: QUEUE_TIMEOUT }
    }

    /// Returns a gate that is open while a permit is free, for [`Serve::gate`](crate::serve::Serve::gate):
    /// clients then wait in the kernel and not in the queue.
    pub fn gate(&self) -> Gate {
        Gate::new(self.0.permits.clone())
    }

    /// Returns the current state of the limit.
    pub fn stats(&self) -> Stats {
        self.0.permits.stats()
    }
}

impl Shared {
    fn queue_len(&self) -> usize {
        self.queue.unwrap_or_else(|| self.permits.steady_limit().saturating_mul(QUEUE_PER_PERMIT))
    }
}

/// Options of a [`ConcurrencyLimitLayer`].
#[derive(Debug)]
#[must_use = "a limit is made by build()"]
pub struct ConcurrencyLimitBuilder {
    limit: Limit,
    queue: Option<usize>,
    queue_timeout: Duration,
}

impl ConcurrencyLimitBuilder {
    /// Sets how many requests may wait for a permit. Defaults to [`QUEUE_PER_PERMIT`] for each permit. With
    /// 0, a request is refused if no permit is free.
    pub fn queue(mut self, len: usize) -> Self {
        self.queue = Some(len);
        self
    }

    /// Sets how long a request may wait for a permit. Defaults to [`QUEUE_TIMEOUT`].
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// Creates the layer.
    pub fn build(self) -> ConcurrencyLimitLayer {
        let Self { limit, queue, queue_timeout } = self;
        let permits = Arc::new(match limit {
            Limit::Fixed(n) => Permits::new(n),
            Limit::Adaptive(gradient) => Permits::adaptive(gradient),
        });
        ConcurrencyLimitLayer(Arc::new(Shared { permits, queue, queue_timeout }))
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit { inner, limit: self.clone(), reservation: Reservation::None }
    }
}

/// A snapshot of a concurrency limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of permits.
    pub limit: usize,
    /// The number of permits in use, including those of handles that are ready but not called.
    pub in_flight: usize,
    /// The number of waiting requests.
    pub waiting: usize,
}

/// Limits the requests that are in the inner service at a time, over all clones.
///
/// **Permits.** `poll_ready` reserves a permit for this handle, not for its clones, and `call` uses it. The
/// permit is released when the response's body has ended or is dropped, when the inner service fails, or
/// when the future is dropped; for a body that is complete with its head (empty, bytes, a slice of a file),
/// with the head. A handle that is ready and not called keeps its permit until it is dropped.
///
/// **Waiting.** Permits are given in the order in which handles began to wait. If the queue is full, or the
/// queue timeout has passed, `poll_ready` is ready nevertheless and the next `call` fails with
/// [`Kind::Overloaded`], whose source is [`QueueFull`] or [`PermitTimeout`]; the inner service is not
/// called. So `poll_ready` fails only if that of the inner service does. A handle leaves the queue when it
/// is dropped; one that is no longer polled keeps its position.
///
/// **Deadlines.** A request's [`Deadline`](crate::peer::Deadline) does not shorten the wait, since
/// `poll_ready` has no request. The queue timeout bounds it.
///
/// Waiting needs a tokio runtime.
///
/// **Position.** Put it inside the [request buffer](crate::layer::RequestBufferLayer), or a client that
/// sends its body slowly holds a permit, and inside the [response
/// buffer](crate::layer::ResponseBufferLayer), or a client that reads slowly holds one.
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::ConcurrencyLimitLayer};
///
/// let app = service_fn(|_: Request| async { Ok::<_, BoxError>(Response::new(Body::empty())) });
/// let limit = ConcurrencyLimitLayer::builder(8).queue(100).build();
/// let limited = limit.layer(app);
/// assert_eq!(limit.stats().limit, 8);
/// # drop(limited);
/// ```
pub struct ConcurrencyLimit<S> {
    inner: S,
    limit: ConcurrencyLimitLayer,
    reservation: Reservation,
}

/// The result of `poll_ready` for the next call.
#[derive(Default)]
enum Reservation {
    #[default]
    None,
    Waiting(Pin<Box<Wait>>),
    Held(Permit),
    /// The queue was full, or no permit became free in time.
    Refused(Error),
}

/// Resolves to `None` after the queue timeout.
type Wait = dyn Future<Output = Option<Permit>> + Send + Sync;

impl<S> ConcurrencyLimit<S> {
    /// Wraps `inner` with a fixed limit of `n` requests.
    pub fn new(inner: S, n: usize) -> Self {
        ConcurrencyLimitLayer::new(n).layer(inner)
    }

    /// Returns the current state of the limit.
    pub fn stats(&self) -> Stats {
        self.limit.stats()
    }

    /// Takes a permit, or a position in the queue, or neither.
    fn reserve(&self) -> Reservation {
        let Shared { permits, queue_timeout, .. } = &*self.limit.0;
        if let Some(permit) = permits.try_acquire() {
            return Reservation::Held(permit);
        }
        permits.on_stall();
        match permits.try_enqueue(self.limit.0.queue_len()) {
            Ok(waiter) => {
                let permit = tokio::time::timeout(*queue_timeout, waiter.acquire());
                Reservation::Waiting(Box::pin(async { permit.await.ok() }))
            }
            Err(full) => Reservation::Refused(Error::new(Kind::Overloaded, full)),
        }
    }
}

impl<S: Clone> Clone for ConcurrencyLimit<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limit: self.limit.clone(),
            reservation: Reservation::None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for ConcurrencyLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimit")
            .field("inner", &self.inner)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for ConcurrencyLimit<S>
where
    S: HttpService<B>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if matches!(self.reservation, Reservation::None) {
            self.reservation = self.reserve();
        }
        if let Reservation::Waiting(wait) = &mut self.reservation {
            self.reservation = match ready!(wait.as_mut().poll(cx)) {
                Some(permit) => Reservation::Held(permit),
                None => {
                    self.limit.0.permits.on_stall();
                    let late = PermitTimeout(self.limit.0.queue_timeout);
                    Reservation::Refused(Error::new(Kind::Overloaded, late))
                }
            };
        }
        if !matches!(self.reservation, Reservation::Held(_)) {
            return Poll::Ready(Ok(())); // the next call is refused
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if ready.is_err() {
            self.reservation = Reservation::None;
        }
        Poll::Ready(ready.map_err(Into::into))
    }

    /// Refused as if the queue were full if the handle is not ready.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match std::mem::take(&mut self.reservation) {
            Reservation::Held(permit) => {
                let sample = permit.permits().start_sample();
                State::Inner { future: self.inner.call(request), permit: Some(permit), sample }
            }
            Reservation::Refused(e) => State::Refused(Some(e)),
            Reservation::None | Reservation::Waiting(_) => {
                let full = QueueFull { waiting: self.limit.0.permits.waiting() };
                State::Refused(Some(Error::new(Kind::Overloaded, full)))
            }
        };
        ResponseFuture::new(state)
    }
}

#[cfg(test)]
mod tests;
