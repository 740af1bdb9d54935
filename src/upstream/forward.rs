//! `Forward`: rewrites the heads of requests and responses as a gateway must.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, StatusCode, uri::Scheme};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService,
    body::{Body, HttpBody},
    peer::Peer,
    semantics::{
        forwarded::ForwardedFields,
        gateway,
        problem::{self, Format},
        via::Via,
    },
};

/// Wraps a service in [`Forward`].
#[derive(Debug, Clone, Default)]
pub struct ForwardLayer {
    pub(super) options: Options,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub(super) fields: ForwardedFields,
    pub(super) via: Option<Via>,
    pub(super) forwards_trace: bool,
}

impl ForwardLayer {
    /// Creates a layer that sets `X-Forwarded-For`, `-Proto` and `-Host`, and removes such fields of the
    /// client.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets which fields are added, and how those that a request already has are handled.
    #[must_use]
    pub fn fields(mut self, fields: ForwardedFields) -> Self {
        self.options.fields = fields;
        self
    }

    /// Adds `Via` to requests and responses (RFC 9110 section 7.6.3). Off by default, as in nginx and HAProxy,
    /// although the RFC requires it: servers behind a reverse proxy seldom need it, and some do not compress
    /// responses to requests with it.
    #[must_use]
    pub fn via(mut self, via: Via) -> Self {
        self.options.via = Some(via);
        self
    }

    /// Forwards TRACE, without credentials. By default the response is 501. See [`gateway::answer`].
    #[must_use]
    pub fn forward_trace(mut self, on: bool) -> Self {
        self.options.forwards_trace = on;
        self
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        Forward { inner, options: self.options.clone() }
    }
}

/// Rewrites requests and responses as a gateway must.
///
/// It removes the hop-by-hop fields (RFC 9110 section 7.6.1) of both and the `Expect` of the request, and adds the
/// [`ForwardedFields`], which name the client. The client is the [`Peer`] in the request's extensions. The layer
/// belongs outside of [`Retry`](super::Retry), so that a request is rewritten once and not for each attempt.
///
/// It answers requests for the gateway itself, by `Max-Forwards: 0` and TRACE: see [`gateway::answer`]. The
/// response to a TRACE with content is 400 (RFC 9110 section 9.3.8).
///
/// Interim responses of a server, such as 103 Early Hints, are not forwarded: the driver of the connection to the
/// server drops them, and that of the client's connection sends only 100.
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
    options: Options,
}

impl<S> Forward<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, B> Service<Request<B>> for Forward<S>
where
    S: HttpService<B> + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some(response) = self.options.answer(&mut request) {
            self.inner = self.inner.clone(); // releases the reserved capacity: a clone has none
            return ResponseFuture(State::Answered(Some(Box::new(response))));
        }
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(|| {
            // Without a peer the scheme of the target is that of the server. With one, a client may have sent it.
            let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
            Peer::memory().forwarded_proto(scheme)
        });
        let version = request.version();
        gateway::prepare_request(request.headers_mut(), &self.options.fields, &peer);
        let via = self.options.via.clone();
        if let Some(via) = &via {
            via.append(request.headers_mut(), version);
        }
        ResponseFuture(State::Forwarded { future: self.inner.call(request), via })
    }
}

impl Options {
    /// Returns the response to a request that is not forwarded.
    fn answer<B: HttpBody>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        if !matches!(*request.method(), Method::OPTIONS | Method::TRACE) {
            return None;
        }
        let (method, has_content) = (request.method().clone(), !request.body().is_end_stream());
        let mut status = gateway::answer(&method, request.headers_mut(), self.forwards_trace);
        if status.is_none() && method == Method::TRACE && has_content {
            status = Some(StatusCode::BAD_REQUEST);
        }
        Some(match status? {
            StatusCode::OK => Response::new(Body::empty()),
            status => problem::response(status, None, Format::of(request.headers())),
        })
    }
}

/// The future of [`Forward`].
#[pin_project]
pub struct ResponseFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
enum State<F> {
    Forwarded {
        #[pin]
        future: F,
        via: Option<Via>,
    },
    /// Boxed, since it is rare and would make the future larger.
    Answered(Option<Box<Response<Body>>>),
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, via) = match self.project().0.project() {
            StateProj::Forwarded { future, via } => (future, via),
            StateProj::Answered(response) => {
                let response = response.take().expect("not polled again after it has ended");
                return Poll::Ready(Ok(*response));
            }
        };
        Poll::Ready(ready!(future.poll(cx)).map(|response| {
            let mut response = response.map(Body::new);
            gateway::prepare_response(response.headers_mut());
            let version = response.version();
            if let Some(via) = via {
                via.append(response.headers_mut(), version);
            }
            response
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
