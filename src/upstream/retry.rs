//! `Retry`: sends a failed request again, if that is safe.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::error::{AttemptError, AttemptErrorKind};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::Delivery,
    error::BoxError,
};

/// The default of [`RetryLayer::attempts`], 3.
pub const ATTEMPTS: usize = 3;

/// Wraps a service in [`Retry`].
#[derive(Debug, Clone, Copy)]
pub struct RetryLayer {
    attempts: usize,
}

impl RetryLayer {
    /// Creates a layer that sends a request up to [`ATTEMPTS`] times.
    pub fn new() -> Self {
        Self { attempts: ATTEMPTS }
    }

    /// Sets the maximum number of times that a request is sent; 0 counts as 1. Defaults to [`ATTEMPTS`].
    #[must_use]
    pub fn attempts(mut self, n: usize) -> Self {
        self.attempts = n.max(1);
        self
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, attempts: self.attempts }
    }
}

/// Sends a failed request again, if that is safe. Over [`Balance`](super::Balance) it goes to another endpoint.
///
/// A request is sent again if the service returns it in an [`AttemptError`], and
/// - no byte of it [was sent](Delivery::NotSent), with any method and any body; or
/// - the connection failed before a byte of the response was received, the method is idempotent (RFC 9110
///   section 9.2.2), and the body can be [replayed](Body::replay).
///
/// A request that exceeded a timeout or its deadline is not sent again. The error of the last attempt is
/// returned: the source of an [`AttemptError`], any other error unchanged.
///
/// Each attempt after the first is sent to a clone of the service. Readiness passes through.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::upstream::{Balance, Endpoint, ForwardLayer, Remote, RetryLayer};
///
/// let servers = ["10.0.0.1:3000", "10.0.0.2:3000"];
/// let endpoints = servers.map(|s| Remote::new(s).map(Endpoint::from));
/// let endpoints = endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let proxy = ServiceBuilder::new()
///     .layer(ForwardLayer::new())
///     .layer(RetryLayer::new().attempts(2))
///     .service(Balance::round_robin(endpoints));
/// # drop(proxy);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    attempts: usize,
}

impl<S> Retry<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B> Service<Request<B>> for Retry<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response<S::ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.inner.clone();
        ResponseFuture {
            state: State::Called(self.inner.call(request.map(Body::new))),
            service,
            attempts_left: self.attempts - 1,
            last_error: None,
        }
    }
}

/// The future of [`Retry`].
#[pin_project]
pub struct ResponseFuture<S, F> {
    #[pin]
    state: State<F>,
    service: S,
    attempts_left: usize,
    last_error: Option<BoxError>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Called(#[pin] F),
    /// The service is not ready for the next attempt.
    NotReady(Option<Box<Request<Body>>>),
}

impl<S> Future for ResponseFuture<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<S::ResponseBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Called(future) => {
                    let error = match ready!(future.poll(cx)) {
                        Ok(response) => return Poll::Ready(Ok(response)),
                        Err(error) => error.into(),
                    };
                    let may_retry = *this.attempts_left > 0;
                    let (error, request) = decide(error, may_retry, this.last_error.take());
                    let Some(request) = request else { return Poll::Ready(Err(error)) };
                    *this.attempts_left -= 1;
                    *this.last_error = Some(error);
                    this.state.set(State::NotReady(Some(request)));
                }
                StateProj::NotReady(request) => {
                    ready!(this.service.poll_ready(cx)).map_err(Into::into)?;
                    let request = request.take().expect("not polled again after it has ended");
                    let future = this.service.call(*request);
                    this.state.set(State::Called(future));
                }
            }
        }
    }
}

/// Returns the error, and the request if it should be sent again.
#[cold]
fn decide(
    error: BoxError,
    may_retry: bool,
    last: Option<BoxError>,
) -> (BoxError, Option<Box<Request<Body>>>) {
    let mut error = match error.downcast::<AttemptError>() {
        Ok(error) => *error,
        Err(error) => return (error, None),
    };
    let may_retry = match error.kind() {
        // The error of the attempt before is the cause; that no endpoint is left follows from it.
        AttemptErrorKind::NoEndpoint => {
            return (last.unwrap_or_else(|| error.into_source()), None);
        }
        AttemptErrorKind::Timeout | AttemptErrorKind::Request => false,
        AttemptErrorKind::Unreachable
        | AttemptErrorKind::Busy
        | AttemptErrorKind::StaleConnection
        | AttemptErrorKind::ConnectionLost
        | AttemptErrorKind::Protocol
        | AttemptErrorKind::Service => may_retry,
    };
    let is_sent = error.delivery() == Delivery::MaybeSent;
    let request = error.take_request().filter(|request| {
        // RFC 9110 section 9.2.2.
        may_retry && (!is_sent || request.method().is_idempotent())
    });
    (error.into_source(), request.map(Box::new))
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("attempts_left", &self.attempts_left)
            .finish_non_exhaustive()
    }
}
