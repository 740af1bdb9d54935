//! `HttpService`: shorthand for the bounds of every service in this crate.

mod readiness;

use http::{Request, Response};
use tower_service::Service;

use crate::{
    body::{Body, HttpBody},
    error::BoxError,
};

pub(crate) use self::readiness::Readiness;

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
