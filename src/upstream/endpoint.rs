//! `Endpoint`: a service with a key, a load and a health.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower_service::Service;

use super::{
    attempt::Attempt,
    error::{AttemptError, AttemptErrorKind},
    history::History,
};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::{RequestInfo, log_request},
    error::Chain,
    net::clock,
};

/// How long an endpoint that could not be reached is ejected, 1 s: long enough that few requests try it in
/// vain, and short enough that it is used again soon after the server has recovered.
const EJECTION: Duration = Duration::from_secs(1);

/// The name of an endpoint, which stays the same when other endpoints come and go. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

impl EndpointKey {
    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for EndpointKey {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl From<String> for EndpointKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service with a key, a load and a health, to which [`Balance`](super::Balance) can send requests.
///
/// The service is any [`HttpService`]: a [`Remote`](super::Remote), a pool of workers, an `axum::Router`, a
/// closure. [`ErasedService`](super::ErasedService) makes one type of services of several types.
///
/// A request counts as in flight from `call` until the end of its response's body, or until the head of a
/// response without a body. An endpoint whose service cannot be reached, or fails to become ready, is ejected
/// for a second. The beginning of an ejection is logged as a `WARN` event "endpoint ejected" with the target
/// `vestibule::upstream` and the fields `endpoint` (the key), `error`, and those of the request. Its end is
/// not logged. [`EndpointHandle`] has the figures.
///
/// Clones share load and health. An endpoint is always ready; its service's readiness is awaited after
/// `call`, for up to [`READY_TIMEOUT`](super::READY_TIMEOUT).
///
/// ```
/// use std::convert::Infallible;
/// use tower::{ServiceExt, service_fn};
/// use vestibule::{Body, Request, Response, upstream::Endpoint};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let endpoint = Endpoint::new("hello", hello).weight(2);
///
/// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// let response = rt.block_on(endpoint.clone().oneshot(Request::new(Body::empty()))).unwrap();
/// assert_eq!(response.status(), 200);
/// assert_eq!((endpoint.handle().in_flight(), endpoint.handle().is_available()), (0, true));
/// ```
#[derive(Debug, Clone)]
pub struct Endpoint<S> {
    service: S,
    weight: u32,
    handle: EndpointHandle,
}

impl<S> Endpoint<S> {
    /// Creates an endpoint of weight 1.
    pub fn new(key: impl Into<EndpointKey>, service: S) -> Self {
        Self { service, weight: 1, handle: EndpointHandle::new(key.into()) }
    }

    /// Sets its share of the requests, relative to the weights of the others. 0 counts as 1. Defaults to 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight.max(1);
        self
    }

    /// Returns the handle of its load and its health.
    pub fn handle(&self) -> &EndpointHandle {
        &self.handle
    }

    /// Returns its key.
    pub fn key(&self) -> &EndpointKey {
        self.handle.key()
    }

    /// Returns its service.
    pub fn service(&self) -> &S {
        &self.service
    }

    pub(super) fn get_weight(&self) -> u32 {
        self.weight
    }

    /// Attempts `request` at this endpoint.
    pub(super) fn send(&self, request: Request<Body>) -> ResponseFuture<S, S::Future>
    where
        S: HttpService + Clone,
    {
        ResponseFuture {
            attempt: Attempt::new(self.service.clone(), request),
            in_flight: Some(InFlight::new(&self.handle)),
        }
    }
}

impl<S, B> Service<Request<B>> for Endpoint<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.send(request.map(Body::new))
    }
}

/// A handle of the load and the health of an endpoint. Cheap to clone; clones share the state.
#[derive(Debug, Clone)]
pub struct EndpointHandle(Arc<State>);

#[derive(Debug)]
struct State {
    key: EndpointKey,
    in_flight: AtomicUsize,
    created: Instant,
    /// The end of the ejection after a failure, in milliseconds since `created`; 0 without one.
    ejected_until: AtomicU64,
    /// The end of an ejection by [`EndpointHandle::eject`], which a success does not end.
    manually_ejected_until: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    last_error: Mutex<Option<Arc<str>>>,
}

impl EndpointHandle {
    fn new(key: EndpointKey) -> Self {
        Self(Arc::new(State {
            key,
            in_flight: AtomicUsize::new(0),
            created: clock::now(),
            ejected_until: AtomicU64::new(0),
            manually_ejected_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            last_error: Mutex::default(),
        }))
    }

    /// Returns the endpoint's key.
    pub fn key(&self) -> &EndpointKey {
        &self.0.key
    }

    /// Returns the number of requests in flight, including those whose response body is not complete.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed)
    }

    /// Returns whether it is not ejected.
    pub fn is_available(&self) -> bool {
        let (after_failure, manually) = (&self.0.ejected_until, &self.0.manually_ejected_until);
        let until = after_failure.load(Relaxed).max(manually.load(Relaxed));
        until == 0 || until <= self.millis(clock::now())
    }

    /// Returns the number of consecutive failed attempts. A closed idle connection and an error of the request
    /// itself do not count.
    pub fn failures(&self) -> u32 {
        self.0.failures.load(Relaxed)
    }

    /// Returns the text of the last of these failures, if there was one.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ejects it for `period`: it is sent no requests while other endpoints are available. Neither a success
    /// nor a failure ends this ejection; [`restore`](Self::restore) does.
    pub fn eject(&self, period: Duration) {
        // Relaxed: a thread that reads the old value sends one more request, which is harmless.
        self.0.manually_ejected_until.store(self.millis_after(period), Relaxed);
    }

    /// Ejects it after a failure, unless an ejection lasts longer already.
    fn eject_after_failure(&self) {
        self.0.ejected_until.fetch_max(self.millis_after(EJECTION), Relaxed);
    }

    /// Ends its ejections, both by [`eject`](Self::eject) and after a failure.
    pub fn restore(&self) {
        self.0.ejected_until.store(0, Relaxed);
        self.0.manually_ejected_until.store(0, Relaxed);
    }

    /// Returns the end of a period that begins now; never 0.
    fn millis_after(&self, period: Duration) -> u64 {
        clock::now().checked_add(period).map_or(u64::MAX, |until| self.millis(until)).max(1)
    }

    fn millis(&self, at: Instant) -> u64 {
        let age = at.saturating_duration_since(self.0.created);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    fn record_success(&self) {
        // Only read as a rule, since all threads share the cache line.
        if self.0.failures.load(Relaxed) != 0 {
            self.0.failures.store(0, Relaxed);
            self.0.ejected_until.store(0, Relaxed);
        }
    }

    /// Counts a failure. Also records in the returned request, if any, that it was tried here.
    fn record_failure(&self, error: &mut AttemptError) {
        let kind = error.kind();
        if let Some(request) = error.request_mut() {
            History::add(request, self.key(), kind);
        }
        match kind {
            AttemptErrorKind::StaleConnection
            | AttemptErrorKind::Request
            | AttemptErrorKind::Busy
            | AttemptErrorKind::NoEndpoint => return,
            AttemptErrorKind::Unreachable => {
                if self.is_available() {
                    let request =
                        error.request_mut().map(|request| RequestInfo::from_request(request));
                    let (request, error) = (request.unwrap_or_default(), Chain(error));
                    log_request!(warn, "vestibule::upstream", &request, endpoint = %self.key(), %error, "endpoint ejected");
                }
                self.eject_after_failure();
            }
            AttemptErrorKind::ConnectionLost
            | AttemptErrorKind::Timeout
            | AttemptErrorKind::Protocol
            | AttemptErrorKind::Service => {}
        }
        self.0.failures.fetch_add(1, Relaxed);
        let text = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
        *self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlight(EndpointHandle);

impl InFlight {
    fn new(endpoint: &EndpointHandle) -> Self {
        endpoint.0.in_flight.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The future of [`Endpoint`].
#[pin_project]
pub struct ResponseFuture<S, F> {
    #[pin]
    attempt: Attempt<S, F>,
    in_flight: Option<InFlight>,
}

impl<S> Future for ResponseFuture<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.attempt.poll(cx));
        let in_flight = this.in_flight.take().expect("not polled again after it has ended");
        Poll::Ready(match result {
            Ok(response) => {
                in_flight.0.record_success();
                Ok(response.map(|body| body.with_guard(in_flight)))
            }
            Err(mut error) => {
                in_flight.0.record_failure(&mut error);
                Err(error)
            }
        })
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failure_does_not_shorten_an_ejection() {
        let handle = EndpointHandle::new("a".into());
        handle.eject(EJECTION * 60);
        handle.eject_after_failure();
        tokio::time::advance(EJECTION * 2).await;
        assert!(!handle.is_available());
        tokio::time::advance(EJECTION * 60).await;
        assert!(handle.is_available());
    }

    #[tokio::test(start_paused = true)]
    async fn success_ends_ejection_after_failure_and_no_manual_one() {
        let handle = EndpointHandle::new("a".into());
        let fail = || {
            let mut error = AttemptError::new(
                AttemptErrorKind::Unreachable,
                crate::conn::Delivery::NotSent,
                "",
            );
            handle.record_failure(&mut error);
        };
        fail();
        assert!(!handle.is_available());
        handle.record_success();
        assert!(handle.is_available());

        handle.eject(EJECTION * 60);
        fail();
        handle.record_success();
        tokio::time::advance(EJECTION * 59).await;
        assert_eq!((handle.is_available(), handle.failures()), (false, 0));
        handle.restore();
        assert!(handle.is_available());
    }
}
