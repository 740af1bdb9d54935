//! `Forward`: makes a client's request a gateway's, and a server's response too.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response, uri::Scheme};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService,
    peer::Peer,
    semantics::{forwarded::ForwardedFields, gateway},
};

/// Wraps a service in [`Forward`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardLayer {
    fields: ForwardedFields,
}

impl ForwardLayer {
    /// Adds `X-Forwarded-For`, `-Proto` and `-Host`, and drops what the client says of itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which fields are added, and what becomes of those that a request has already.
    #[must_use]
    pub fn fields(mut self, fields: ForwardedFields) -> Self {
        self.fields = fields;
        self
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        Forward { inner, fields: self.fields }
    }
}

/// Rewrites a client's request as a gateway must: without hop-by-hop fields (RFC 9110 section 7.6.1) and
/// `Expect`, and with fields that say who the client is, as [`ForwardedFields`] has it. Removes the
/// hop-by-hop fields of the response.
///
/// The client is that of the request's [`Peer`] extension. It stands outside of
/// [`Retry`](super::Retry), so that a request is changed once however often it is sent.
///
/// Readiness passes through.
///
/// ```
/// use tower::{ServiceBuilder, service_fn, ServiceExt};
/// use vestibule::{Body, BoxError, Request, Response, upstream::ForwardLayer};
///
/// let service = ServiceBuilder::new().layer(ForwardLayer::new()).service(service_fn(
///     |request: Request| async move {
///         assert!(!request.headers().contains_key("connection"));
///         assert_eq!(request.headers()["x-forwarded-proto"], "http");
///         Ok::<_, BoxError>(Response::new(Body::empty()))
///     },
/// ));
/// # let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let request = Request::builder().header("connection", "close").body(Body::empty()).unwrap();
/// rt.block_on(service.oneshot(request)).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Forward<S> {
    inner: S,
    fields: ForwardedFields,
}

impl<S> Forward<S> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B> Service<Request<B>> for Forward<S>
where
    S: HttpService<B>,
{
    type Response = Response<S::ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let ip = peer.and_then(Peer::ip);
        // The target may claim any scheme.
        let of_target = || request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
        let scheme = peer.map_or_else(of_target, Peer::scheme);
        gateway::request(request.headers_mut(), &self.fields, ip, &scheme);
        ResponseFuture(self.inner.call(request))
    }
}

/// The future of [`Forward`].
#[pin_project]
pub struct ResponseFuture<F>(#[pin] F);

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut result = ready!(self.project().0.poll(cx));
        if let Ok(response) = &mut result {
            gateway::response(response.headers_mut());
        }
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
