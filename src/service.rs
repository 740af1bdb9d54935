//! `HttpService`: shorthand for the bounds of every service in this crate. `ResponseFuture`: a future that drivers do not
//! box again.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    body::{Body, HttpBody},
    error::BoxError,
};

/// A `tower::Service` from a `Request` to a `Response` whose bodies and error this crate accepts.
///
/// Implemented for every service that qualifies: an `axum::Router`, a `tower_http` service,
/// a [`tower::service_fn`](https://docs.rs/tower/latest/tower/fn.service_fn.html), and every service
/// of this crate. Use it as a bound; never implement it by hand.
///
/// ```
/// use vestibule::{BoxError, HttpService, Request};
///
/// async fn status_of<S: HttpService>(mut service: S, request: Request) -> Result<u16, BoxError> {
///     std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
///     Ok(service.call(request).await.map_err(Into::into)?.status().as_u16())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a service for HTTP requests with the body `{B}`",
    note = "expected a `tower::Service<http::Request<{B}>>` whose response is an `http::Response` \
            with a body of `Bytes`, and whose error converts into `BoxError`"
)]
pub trait HttpService<B = Body>:
    Service<Request<B>, Response = Response<Self::ResponseBody>, Error: Into<BoxError>>
{
    /// The body of its responses.
    type ResponseBody: HttpBody;
}

impl<S, B, R> HttpService<B> for S
where
    S: Service<Request<B>, Response = Response<R>, Error: Into<BoxError>>,
    R: HttpBody,
{
    type ResponseBody = R;
}

/// The future of [`Cache`](crate::cache::Cache).
///
/// A hit, which is ready, is answered without another allocation. Other futures are boxed, so that hits do not move their size.
#[must_use = "futures do nothing unless polled"]
#[cfg_attr(not(feature = "cache"), allow(unreachable_pub, reason = "for the cache"))]
pub struct ResponseFuture(State);

/// A future of a response, whose type is erased.
pub(crate) type BoxFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each hit")]
enum State {
    #[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "for hits"))]
    Ready(Option<Response<Body>>),
    #[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "for misses"))]
    Boxed(BoxFuture),
}

#[cfg_attr(not(feature = "cache"), allow(dead_code, reason = "for the cache"))]
impl ResponseFuture {
    pub(crate) fn ready(response: Response<Body>) -> Self {
        Self(State::Ready(Some(response)))
    }

    pub(crate) fn boxed(
        future: impl Future<Output = Result<Response<Body>, BoxError>> + Send + 'static,
    ) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl ResponseFuture {
    /// Returns it in a box, which may be its own.
    pub(crate) fn into_boxed(self) -> BoxFuture {
        match self.0 {
            State::Ready(_) => Box::pin(self),
            State::Boxed(future) => future,
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Ready(response) => {
                Poll::Ready(Ok(response.take().expect("not polled after completion")))
            }
            State::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
