//! `Retry`: sends a failed request again if that is safe.

mod config;
mod judge;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep, sleep_until};
use tower_service::Service;

use self::{config::Config, judge::judge};
use super::attempt::{AttemptTimeout, EnforceDeadline};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    error::BoxError,
    net::clock,
    peer::Deadline,
};

pub use config::{ATTEMPTS, RetryLayer};

/// Sends a failed request again if that is safe; over [`Balance`](super::Balance), to another endpoint.
///
/// A request is sent again if the service returns it in an [`AttemptError`](super::AttemptError), and
/// - no byte of it [was sent](super::Delivery::NotSent), whatever its method and body; or
/// - the attempt failed before the first byte of the response, the body can be [replayed](Body::replay), and the
///   method is idempotent (RFC 9110 section 9.2.2) or [`repeatable`](RetryLayer::repeatable) allows it.
///
/// A body that a [`RequestBufferLayer`](crate::layer::RequestBufferLayer) has buffered can be replayed, from memory
/// or from a file. A streamed body is moved into an attempt only when there is a connection, so it is complete if
/// nothing was sent.
///
/// Retries are limited: in number for each request, by a [budget](RetryLayer::budget) for all requests together, and
/// by time. A request whose deadline has passed, or would pass in the delay before the next attempt, is not sent again,
/// unless it was the timeout of [one attempt](RetryLayer::attempt_timeout). Errors of other types are returned unchanged.
/// Of the last [`AttemptError`](super::AttemptError), the source is returned.
///
/// Each attempt after the first one is sent to a clone of the service, whose readiness it awaits up to the deadline.
/// Before the first one, readiness passes through.
///
/// ```
/// use std::time::Duration;
/// use tower::ServiceBuilder;
/// use vestibule::upstream::{Balance, Endpoint, ForwardLayer, Remote, RetryLayer};
///
/// let servers = ["10.0.0.1:3000", "10.0.0.2:3000"];
/// let endpoints = servers.map(|s| Remote::new(s).map(Endpoint::from));
/// let endpoints = endpoints.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let retry = RetryLayer::new()
///     .attempts(2)
///     .attempt_timeout(Duration::from_secs(2))
///     .total_timeout(Duration::from_secs(5))
///     .repeatable(|request| request.headers().contains_key("idempotency-key"));
/// let proxy = ServiceBuilder::new()
///     .layer(ForwardLayer::new())
///     .layer(retry)
///     .service(Balance::round_robin(endpoints));
/// # drop(proxy);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    config: Arc<Config>,
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
        let mut request = request.map(Body::new);
        let service = self.inner.clone();
        if let Some(budget) = &self.config.budget {
            budget.deposit();
        }
        let deadline = self.config.begin(&mut request);
        ResponseFuture {
            state: State::Called(self.inner.call(request)),
            service,
            config: self.config.clone(),
            attempts: 1,
            deadline,
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
    config: Arc<Config>,
    /// Attempts so far.
    attempts: u32,
    /// The deadline of all attempts together, if the current attempt has an earlier one.
    deadline: Option<Instant>,
    last_error: Option<BoxError>,
}

#[pin_project(project = StateProj)]
enum State<F> {
    Called(#[pin] F),
    /// The next attempt waits for its delay, and then for the readiness of the service.
    Waiting {
        request: Option<Box<Request<Body>>>,
        /// `None` when it has passed.
        delay: Option<Pin<Box<Sleep>>>,
        /// `None` until the service was not ready, or without a deadline.
        end: Option<Pin<Box<Sleep>>>,
    },
}

const ENDED: &str = "not polled again after it has ended";

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
                    let last = this.last_error.take();
                    let delay = this.config.delay(*this.attempts);
                    let (error, request) =
                        judge(error, this.config, *this.attempts, *this.deadline, delay, last);
                    let Some(request) = request else { return Poll::Ready(Err(error)) };
                    *this.last_error = Some(error);
                    let (request, end) = (Some(request), None);
                    let delay = (!delay.is_zero()).then(|| Box::pin(sleep(delay)));
                    this.state.set(State::Waiting { request, delay, end });
                }
                StateProj::Waiting { request, delay, end } => {
                    if let Some(sleep) = delay {
                        ready!(sleep.as_mut().poll(cx));
                        *delay = None;
                    }
                    let Poll::Ready(is_ready) = this.service.poll_ready(cx) else {
                        let waiting = request.as_ref().expect(ENDED);
                        if end.is_none()
                            && let Some(at) = this.config.end(waiting, *this.deadline)
                        {
                            *end = Some(Box::pin(sleep_until(at.into())));
                        }
                        let Some(end) = end else { return Poll::Pending };
                        ready!(end.as_mut().poll(cx));
                        return Poll::Ready(Err(this.last_error.take().expect(ENDED)));
                    };
                    is_ready.map_err(Into::into)?;
                    let mut request = request.take().expect(ENDED);
                    *this.attempts += 1;
                    this.config.limit_attempt(&mut request, *this.deadline);
                    let future = this.service.call(*request);
                    this.state.set(State::Called(future));
                }
            }
        }
    }
}

impl Config {
    /// Sets the deadline of the first attempt. Returns the deadline of all attempts together, if that of the attempt
    /// has replaced it.
    fn begin(&self, request: &mut Request<Body>) -> Option<Instant> {
        if !self.has_timeouts() {
            return None;
        }
        let own = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let total = self.total_timeout.and_then(|timeout| clock::now().checked_add(timeout));
        let deadline = [own, total].into_iter().flatten().min();
        self.limit_attempt(request, deadline);
        deadline
    }

    /// Returns the time by which all attempts must have ended. `deadline` is what [`begin`](Self::begin) has returned.
    fn end(&self, request: &Request<Body>, deadline: Option<Instant>) -> Option<Instant> {
        // Without timeouts of the layer, the request has its own deadline; otherwise that of the attempt.
        let own = || request.extensions().get().map(|Deadline(at)| *at);
        if self.has_timeouts() { deadline } else { own() }
    }

    /// Returns whether attempts get deadlines of this layer.
    fn has_timeouts(&self) -> bool {
        self.total_timeout.is_some() || self.attempt_timeout.is_some()
    }

    /// Sets the deadline of the next attempt, which is not after `deadline`.
    fn limit_attempt(&self, request: &mut Request<Body>, deadline: Option<Instant>) {
        if !self.has_timeouts() {
            return;
        }
        let attempt = self.attempt_timeout.and_then(|timeout| clock::now().checked_add(timeout));
        match [attempt, deadline].into_iter().flatten().min() {
            Some(until) => {
                request.extensions_mut().insert(Deadline(until));
                let attempt = self.attempt_timeout;
                let attempt =
                    attempt.map(|timeout| AttemptTimeout { timeout, until, total: deadline });
                request.extensions_mut().insert(EnforceDeadline { attempt });
            }
            None => drop(request.extensions_mut().remove::<Deadline>()),
        }
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("attempts", &self.attempts).finish_non_exhaustive()
    }
}
