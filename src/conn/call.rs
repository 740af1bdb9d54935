//! Calls of the service, whose panics are caught, and whose responses are ours.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Response as HttpResponse, header::ALLOW};
use pin_project::pin_project;

use crate::{
    HttpService, Request, Response,
    body::{Body, HttpBody},
    error::{BoxError, panic_message},
};

/// The service's future. Its type is erased here, so that the driver's state does not depend on the
/// service.
pub(super) type Call = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

/// Calls the service, which must be ready.
pub(super) fn call_service<S>(service: &mut S, request: Request) -> Call
where
    S: HttpService,
    S::Future: Send + 'static,
{
    Box::pin(IntoResponse(service.call(request)))
}

/// Calls code of the service and catches its panic. After a panic the caller drops that code and does not
/// call it again.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, ServicePanicked> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| ServicePanicked(panic_message(&*panic).to_owned()))
}

/// A panic of the service: in its readiness, its call, its future or the body of its response.
#[derive(Debug, thiserror::Error)]
#[error("the service panicked: {0}")]
pub(super) struct ServicePanicked(String);

/// Returns the response to `OPTIONS *`, which applies to the server and not to a resource (RFC 9110 section
/// 9.3.7).
pub(super) fn server_options() -> Response {
    const METHODS: HeaderValue =
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(ALLOW, METHODS);
    response
}

/// A service's future whose output is converted to this crate's `Response` and `BoxError`.
#[pin_project]
struct IntoResponse<F>(#[pin] F);

impl<F, B, E> Future for IntoResponse<F>
where
    F: Future<Output = Result<HttpResponse<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match ready!(self.project().0.poll(cx)) {
            Ok(response) => Poll::Ready(Ok(response.map(Body::new))),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
