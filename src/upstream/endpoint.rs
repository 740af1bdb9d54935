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

/// How long an endpoint that could not be reached is ejected: long enough to spare the others'
/// requests the attempt, short enough to come back with the server.
const EJECTION: Duration = Duration::from_secs(1);

/// The name of an endpoint, which stays the same when other endpoints come and go. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey(Arc<str>);

impl EndpointKey {
    /// The key as text.
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

/// A service that [`Balance`](super::Balance) can send requests to: with a key, a load and a health.
///
/// The service is anything that answers requests: a [`Remote`](super::Remote), a pool of workers, an
/// `axum::Router`, a closure. Services of several types become one by
/// [`ErasedService`](super::ErasedService).
///
/// A request counts as in flight from `call` until the end of its response's body. A response that is
/// complete with its head counts until then only. An endpoint whose service cannot be reached, or fails
/// to become ready, is ejected for a second. When that begins, a `WARN` event "endpoint ejected" is written
/// to the target `vestibule::upstream`, with the fields `endpoint` (the key), `error`, and those of the
/// request. The end of an ejection is not logged. See [`EndpointHandle`] for the figures.
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
    /// An endpoint of weight 1.
    pub fn new(key: impl Into<EndpointKey>, service: S) -> Self {
        Self { service, weight: 1, handle: EndpointHandle::new(key.into()) }
    }

    /// Its share of the requests, relative to the other weights; 0 counts as 1. Default 1.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight.max(1);
        self
    }

    /// Its load and its health.
    pub fn handle(&self) -> &EndpointHandle {
        &self.handle
    }

    /// Its key.
    pub fn key(&self) -> &EndpointKey {
        self.handle.key()
    }

    /// Its service.
    pub fn service(&self) -> &S {
        &self.service
    }

    pub(super) fn get_weight(&self) -> u32 {
        self.weight
    }

    /// The attempt to have this endpoint answer `request`.
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

/// The load and the health of an endpoint. Cheap to clone: clones share them.
#[derive(Debug, Clone)]
pub struct EndpointHandle(Arc<State>);

#[derive(Debug)]
struct State {
    key: EndpointKey,
    in_flight: AtomicUsize,
    born: Instant,
    /// Milliseconds since `born` until which it is ejected after a failure; 0: not ejected.
    ejected_until: AtomicU64,
    /// The same for [`EndpointHandle::eject`]. Apart, so that a success does not end it.
    ejected_by_hand_until: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    last_error: Mutex<Option<Arc<str>>>,
}

impl EndpointHandle {
    fn new(key: EndpointKey) -> Self {
        Self(Arc::new(State {
            key,
            in_flight: AtomicUsize::new(0),
            born: clock::now(),
            ejected_until: AtomicU64::new(0),
            ejected_by_hand_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            last_error: Mutex::default(),
        }))
    }

    /// The endpoint's key.
    pub fn key(&self) -> &EndpointKey {
        &self.0.key
    }

    /// Requests that it is answering now, response bodies included.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed)
    }

    /// Whether it is not ejected.
    pub fn is_available(&self) -> bool {
        let (failed, by_hand) = (&self.0.ejected_until, &self.0.ejected_by_hand_until);
        let until = failed.load(Relaxed).max(by_hand.load(Relaxed));
        until == 0 || until <= self.millis(clock::now())
    }

    /// Attempts that failed since the last one that did not. A closed idle connection, and a failure of
    /// the request itself, do not count.
    pub fn failures(&self) -> u32 {
        self.0.failures.load(Relaxed)
    }

    /// What the last of these failures was; `None` if there was none.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends it no requests for `period`, while there are others. Neither a success nor a failure changes
    /// that; [`restore`](Self::restore) does.
    pub fn eject(&self, period: Duration) {
        // Relaxed: a late reader sends one more request, which then goes elsewhere.
        self.0.ejected_by_hand_until.store(self.millis_after(period), Relaxed);
    }

    /// Ejects it after a failure, unless it is ejected for longer already.
    fn eject_after_failure(&self) {
        self.0.ejected_until.fetch_max(self.millis_after(EJECTION), Relaxed);
    }

    /// Ends its ejection, by [`eject`](Self::eject) or by a failure.
    pub fn restore(&self) {
        self.0.ejected_until.store(0, Relaxed);
        self.0.ejected_by_hand_until.store(0, Relaxed);
    }

    /// The end of a period that begins now; never 0.
    fn millis_after(&self, period: Duration) -> u64 {
        clock::now().checked_add(period).map_or(u64::MAX, |until| self.millis(until)).max(1)
    }

    fn millis(&self, at: Instant) -> u64 {
        let age = at.saturating_duration_since(self.0.born);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    fn record_success(&self) {
        // Read before it is written: the line is shared by all threads.
        if self.0.failures.load(Relaxed) != 0 {
            self.0.failures.store(0, Relaxed);
            self.0.ejected_until.store(0, Relaxed);
        }
    }

    /// Also notes in the request, if it comes back, that it was tried here.
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

/// One request that counts as in flight until it is dropped.
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
    async fn success_ends_an_ejection_by_failure_and_none_by_hand() {
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
