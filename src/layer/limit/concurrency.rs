//! `ConcurrencyLimit`: at most so many requests inside at a time; the others wait in order.

mod places;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::places::{Begun, Permit, Places};
use super::{
    error::{PermitTimeout, QueueFull},
    held::hold,
};
use crate::{
    Body, HttpService, Request, Response,
    body::HttpBody,
    error::{BoxError, Error, Kind},
    net::Gate,
    policy::gradient::Gradient,
};

/// Requests that may wait for each place, unless set otherwise: 64, as for each of the
/// [workers](crate::worker). At 10 ms for each, the last one waits 0.6 s; a longer queue only makes
/// answers that nobody waits for any more.
pub const QUEUE_PER_PERMIT: usize = 64;

/// How long a request may wait for a place, unless set otherwise: 10 s, about as long as a person
/// waits before reloading the page.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many requests may be inside of a [`ConcurrencyLimit`] at a time.
#[derive(Debug, Clone)]
pub enum Limit {
    /// So many, at least one.
    Fixed(usize),
    /// As many as the inner service can work on, which is learned from how long its answers take,
    /// up to their heads. See [`Gradient`] for how, and for its bounds.
    ///
    /// Each answer counts, whatever its status, and each [`Kind::Timeout`]; other errors and
    /// requests that were dropped say nothing. A body that goes on for long holds its place but
    /// does not count as latency. When the limit falls, what is inside stays there: no place is free
    /// before so many have left.
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
/// places.
#[derive(Debug, Clone)]
pub struct ConcurrencyLimitLayer(Arc<Shared>);

/// What all handles of one limit share.
#[derive(Debug)]
struct Shared {
    places: Arc<Places>,
    /// [`QUEUE_PER_PERMIT`] if not set.
    queue: Option<usize>,
    queue_timeout: Duration,
}

impl ConcurrencyLimitLayer {
    /// A fixed or an adaptive limit, with the default queue.
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

    /// A limit with options.
    pub fn builder(limit: impl Into<Limit>) -> ConcurrencyLimitBuilder {
        ConcurrencyLimitBuilder { limit: limit.into(), queue: None, queue_timeout: QUEUE_TIMEOUT }
    }

    /// Open while a place is free: for [`Serve::gate`](crate::serve::Serve::gate), so that clients
    /// wait in the kernel and not in the queue.
    pub fn gate(&self) -> Gate {
        Gate::new(self.0.places.clone())
    }

    /// The state of the limit now.
    pub fn stats(&self) -> Stats {
        self.0.places.stats()
    }
}

impl Shared {
    fn queue_len(&self) -> usize {
        self.queue.unwrap_or_else(|| self.places.settled().saturating_mul(QUEUE_PER_PERMIT))
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
    /// How many requests may wait for a place; [`QUEUE_PER_PERMIT`] for each if not set. With 0
    /// none waits: a request that finds no place is refused.
    pub fn queue(mut self, len: usize) -> Self {
        self.queue = Some(len);
        self
    }

    /// How long a request may wait for a place; [`QUEUE_TIMEOUT`] if not set.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// The finished limit.
    pub fn build(self) -> ConcurrencyLimitLayer {
        let Self { limit, queue, queue_timeout } = self;
        let places = Arc::new(match limit {
            Limit::Fixed(n) => Places::new(n),
            Limit::Adaptive(gradient) => Places::adaptive(gradient),
        });
        ConcurrencyLimitLayer(Arc::new(Shared { places, queue, queue_timeout }))
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit { inner, limit: self.clone(), place: Place::None }
    }
}

/// What a concurrency limit looks like at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many places there are.
    pub limit: usize,
    /// How many are taken, those by handles that are ready but not called included.
    pub in_flight: usize,
    /// How many wait for one.
    pub waiting: usize,
}

/// At most so many requests are inside of the service at a time, over all clones.
///
/// **Places.** `poll_ready` reserves one for this handle, a clone has none; `call` spends it, and it
/// is free again when the response's body has ended or is dropped, when the service inside fails,
/// or when the future is dropped. For a body that is complete with its head (empty, bytes, a slice
/// of a file) that is with the head. A handle that is ready and not called keeps its place until it
/// is dropped.
///
/// **Waiting.** Places are given in the order in which handles came. Where too many wait already,
/// or the time is over, `poll_ready` is ready all the same and the next `call` answers with
/// [`Kind::Overloaded`], whose source is [`QueueFull`] or [`PermitTimeout`]; the service inside is not
/// called. So `poll_ready` fails only if that of the service inside does. A handle leaves the queue
/// when it is dropped; one that is kept but polled no more stays in it, with its turn.
///
/// **Deadlines.** A request's [`Deadline`](crate::peer::Deadline) does not shorten the wait:
/// `poll_ready` comes before there is a request to look at. The queue timeout bounds it.
///
/// Waiting needs a tokio runtime.
///
/// **Where it stands.** Inside of the [request buffer](crate::layer::RequestBufferLayer), or a
/// client that sends its body slowly holds a place; and inside of the [response
/// buffer](crate::layer::ResponseBufferLayer), or one that reads slowly does.
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
    place: Place,
}

/// What `poll_ready` has got for the next call.
#[derive(Default)]
enum Place {
    #[default]
    None,
    Waiting(Pin<Box<Wait>>),
    Held(Permit),
    /// There was none, or none in time.
    Refused(Error),
}

/// `None` when the time is over.
type Wait = dyn Future<Output = Option<Permit>> + Send + Sync;

impl<S> ConcurrencyLimit<S> {
    /// Wraps `inner`, of which at most `n` requests are inside at a time.
    pub fn new(inner: S, n: usize) -> Self {
        ConcurrencyLimitLayer::new(n).layer(inner)
    }

    /// The state of the limit now.
    pub fn stats(&self) -> Stats {
        self.limit.stats()
    }

    /// A place, or a turn in the queue, or neither.
    fn take_place(&self) -> Place {
        let Shared { places, queue_timeout, .. } = &*self.limit.0;
        if let Some(permit) = places.try_take() {
            return Place::Held(permit);
        }
        places.stalled();
        match places.queue(self.limit.0.queue_len()) {
            Ok(waiter) => {
                let place = tokio::time::timeout(*queue_timeout, waiter.place());
                Place::Waiting(Box::pin(async { place.await.ok() }))
            }
            Err(full) => Place::Refused(Error::new(Kind::Overloaded, full)),
        }
    }
}

impl<S: Clone> Clone for ConcurrencyLimit<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), limit: self.limit.clone(), place: Place::None }
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
        if matches!(self.place, Place::None) {
            self.place = self.take_place();
        }
        if let Place::Waiting(wait) = &mut self.place {
            self.place = match ready!(wait.as_mut().poll(cx)) {
                Some(permit) => Place::Held(permit),
                None => {
                    self.limit.0.places.stalled();
                    let late = PermitTimeout(self.limit.0.queue_timeout);
                    Place::Refused(Error::new(Kind::Overloaded, late))
                }
            };
        }
        if !matches!(self.place, Place::Held(_)) {
            return Poll::Ready(Ok(())); // and the next call is refused
        }
        let ready = ready!(self.inner.poll_ready(cx));
        if ready.is_err() {
            self.place = Place::None;
        }
        Poll::Ready(ready.map_err(Into::into))
    }

    /// On a handle that is not ready it is refused as if the queue were full.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match std::mem::take(&mut self.place) {
            Place::Held(permit) => {
                let begun = permit.places().begin();
                State::Inner { future: self.inner.call(request), permit: Some(permit), begun }
            }
            Place::Refused(e) => State::Refused(Some(e)),
            Place::None | Place::Waiting(_) => {
                let full = QueueFull { waiting: self.limit.0.places.waiting() };
                State::Refused(Some(Error::new(Kind::Overloaded, full)))
            }
        };
        ResponseFuture { state }
    }
}

/// The future of [`ConcurrencyLimit`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    state: State<F>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Inner {
        #[pin]
        future: F,
        permit: Option<Permit>,
        /// Only where the limit adapts.
        begun: Option<Begun>,
    },
    Refused(Option<Error>),
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Inner { future, permit, begun } => {
                let answer = ready!(future.poll(cx));
                let answer = answer.map(|r| r.map(Body::new)).map_err(Into::into);
                let permit = permit.take().expect("a future is not polled after its end");
                permit.places().answered(begun.take().filter(|_| tells_latency(&answer)));
                // With an error the place is given back here.
                Poll::Ready(answer.map(|response| hold(response, permit)))
            }
            StateProj::Refused(e) => {
                Poll::Ready(Err(e.take().expect("a future is not polled after its end").into()))
            }
        }
    }
}

/// Is this what the service made in the time that it took? Its quick errors would make it look fast.
fn tells_latency(answer: &Result<Response, BoxError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(e) => Error::find(&**e).is_some_and(|e| e.kind() == Kind::Timeout),
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
