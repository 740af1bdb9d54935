//! `Rescue`: turns errors into responses by one table.

use std::{
    convert::Infallible,
    error::Error as _,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::buffer::request::BodyTooLarge;
use crate::{
    Body, HttpService, Request, Response,
    body::HttpBody,
    conn::{RequestInfo, log_error},
    error::{BoxError, Error},
    semantics::problem::{self, Accept},
};

pub use crate::semantics::problem::Format;

/// Returns the response for an error, by the table that [`Rescue`] uses by default.
///
/// Its status is that of the error's kind ([`problem::status`]); an error of another crate is 500. With
/// 429 and 503 it has a `retry-after`: the time of a [`RateLimited`](problem::RateLimited) source in
/// seconds, rounded up and at least 1, or 1 without such a source.
///
/// The [`Error`] is searched in the whole chain of causes. The body is that of [`problem::response`] and
/// never contains the cause.
///
/// ```
/// use vestibule::{BoxError, Error, error::Kind, layer::rescue::{self, Format}};
///
/// let error: BoxError = Error::new(Kind::Overloaded, "the queue is full").into();
/// let response = rescue::response(&error, Format::Text);
/// assert_eq!(response.status(), 503);
/// assert_eq!(response.headers()["retry-after"], "1");
/// assert_eq!(response.body().as_bytes().unwrap(), "503 Service Unavailable\n");
/// ```
pub fn response(error: &BoxError, format: Format) -> Response {
    respond(error, format, false)
}

/// Makes the response for the error of a service, for [`Rescue`].
///
/// Implemented for every `Fn(&BoxError, Format) -> Response`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make responses from errors",
    note = "expected a `Fn(&BoxError, Format) -> Response`"
)]
pub trait Responder {
    /// Returns the response for `error`, in the format that the client prefers.
    fn respond(&self, error: &BoxError, format: Format) -> Response;
}

impl<F: Fn(&BoxError, Format) -> Response> Responder for F {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        self(error, format)
    }
}

/// The [`Responder`] that [`Rescue`] uses by default: the table of [`response`].
#[derive(Debug, Clone, Copy, Default)]
pub struct StatusTable;

impl Responder for StatusTable {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        respond(error, format, false)
    }
}

/// The [`Responder`] of [`RescueLayer::tell_limits`]: the table of [`response`], with the limit that a body
/// exceeds as the response's detail.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatusTableWithLimits;

impl Responder for StatusTableWithLimits {
    fn respond(&self, error: &BoxError, format: Format) -> Response {
        respond(error, format, true)
    }
}

fn respond(error: &BoxError, format: Format, with_limits: bool) -> Response {
    let source = Error::find(&**error).and_then(Error::source);
    let limit = source.and_then(|e| e.downcast_ref::<BodyTooLarge>());
    let detail = limit.filter(|_| with_limits).map(ToString::to_string);
    problem::of_error(&**error, detail.as_deref(), format)
}

/// Wraps a service in [`Rescue`]. Put it outside of every layer that can fail; [the table of
/// layers](crate#the-order-of-layers) lists those outside of it.
#[derive(Clone, Copy, Default)]
pub struct RescueLayer<R = StatusTable> {
    responder: R,
}

impl RescueLayer {
    /// Creates a layer with the table of [`response`].
    pub fn new() -> Self {
        Self { responder: StatusTable }
    }

    /// Adds the limit that a body exceeds to the response, as its detail: `the body is larger than 1048576
    /// bytes`. Off by default; the log has it at the level `debug`.
    pub fn tell_limits(self) -> RescueLayer<StatusTableWithLimits> {
        RescueLayer { responder: StatusTableWithLimits }
    }
}

impl<R: Responder + Clone> RescueLayer<R> {
    /// Creates a layer with this `responder`, which may fall back to [`response`].
    ///
    /// ```
    /// use vestibule::layer::{RescueLayer, rescue::{self, Format}};
    ///
    /// let layer = RescueLayer::with(|error: &vestibule::BoxError, format: Format| {
    ///     let mut response = rescue::response(error, format);
    ///     response.headers_mut().insert("cache-control", "no-store".parse().unwrap());
    ///     response
    /// });
    /// # drop(layer);
    /// ```
    pub fn with(responder: R) -> Self {
        Self { responder }
    }
}

impl<R> fmt::Debug for RescueLayer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RescueLayer").finish_non_exhaustive()
    }
}

impl<S, R: Clone> Layer<S> for RescueLayer<R> {
    type Service = Rescue<S, R>;

    fn layer(&self, inner: S) -> Rescue<S, R> {
        Rescue { inner, responder: self.responder.clone(), ready_error: None }
    }
}

/// Makes any service infallible, as `axum` requires. ([`serve`](crate::serve()) accepts errors.)
///
/// ```
/// use vestibule::{Router, layer::RescueExt};
///
/// let site: axum::Router = axum::Router::new().fallback_service(Router::new().infallible());
/// # drop(site);
/// ```
pub trait RescueExt: Sized {
    /// Wraps the service in [`Rescue`], with the table of [`response`].
    fn infallible(self) -> Rescue<Self> {
        Rescue::new(self)
    }
}

impl<S> RescueExt for S {}

/// Turns every error of the inner service into a response, so that its own error is
/// [`Infallible`], and every response body into a [`Body`].
///
/// The response is text, or `application/problem+json` (RFC 9457) for a client that
/// [prefers JSON](Format::of).
///
/// `poll_ready` never fails: an error of the inner service is stored, and the next `call` returns its
/// response. Clones do not copy a stored error.
pub struct Rescue<S, R = StatusTable> {
    inner: S,
    responder: R,
    /// The error of the inner `poll_ready`, for the next call.
    ready_error: Option<BoxError>,
}

impl<S> Rescue<S> {
    /// Wraps `inner`, with the table of [`response`].
    pub fn new(inner: S) -> Self {
        RescueLayer::new().layer(inner)
    }
}

impl<S: Clone, R: Clone> Clone for Rescue<S, R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), responder: self.responder.clone(), ready_error: None }
    }
}

impl<S: fmt::Debug, R> fmt::Debug for Rescue<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rescue").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Rescue<S, R>
where
    S: HttpService<B>,
    R: Responder + Clone,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.ready_error.is_none()
            && let Err(e) = ready!(self.inner.poll_ready(cx))
        {
            self.ready_error = Some(e.into());
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let info = RequestInfo::from_request(&request);
        let accept = Accept::of(request.method(), request.headers());
        let state = match self.ready_error.take() {
            Some(e) => State::Failed(Some(e)),
            None => State::Inner(self.inner.call(request)),
        };
        ResponseFuture { state, request: info, accept, responder: self.responder.clone() }
    }
}

/// The future of [`Rescue`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F, R> {
    #[pin]
    state: State<F>,
    request: RequestInfo,
    accept: Accept,
    responder: R,
}

#[pin_project(project = StateProj)]
#[derive(Debug)]
enum State<F> {
    Inner(#[pin] F),
    Failed(Option<BoxError>),
}

impl<F, R, E, B> Future for ResponseFuture<F, R>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: HttpBody,
    R: Responder,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProj::Inner(f) => match ready!(f.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response.map(Body::new))),
                Err(e) => e.into(),
            },
            StateProj::Failed(e) => e.take().expect("a future is not polled after its end"),
        };
        log_error(this.request, &error);
        Poll::Ready(Ok(this.responder.respond(&error, this.accept.format())))
    }
}

#[cfg(test)]
mod tests;
