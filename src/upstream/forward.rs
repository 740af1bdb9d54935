//! `Forward`: rewrites the heads of requests and responses as a gateway must.

mod layer;
mod request;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{EXPECT, HOST},
};
use pin_project::pin_project;
use tower_service::Service;

use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::tunnels::{Switch, TooManyTunnels, TunnelStats, Tunnels},
    semantics::{
        gateway,
        problem::{self, Format},
        rewrite::Rewrite,
        via::Via,
    },
};

pub(super) use layer::Options;
pub use layer::{ForwardLayer, HostPolicy};

/// Rewrites requests and responses as a gateway must.
///
/// It removes the hop-by-hop fields of both (RFC 9110 section 7.6.1), and the `Expect` of the request unless it is
/// [forwarded](ForwardLayer::forward_expect). It adds the
/// [`ForwardedFields`](crate::semantics::forwarded::ForwardedFields), which describe the client: the [`Peer`](crate::peer::Peer)
/// in the request's extensions. Put it outside of [`Retry`](super::Retry), so that a request is rewritten once and not
/// for each attempt.
///
/// It answers TRACE, and OPTIONS with `Max-Forwards: 0`, instead of the server: see [`gateway::answer`]. A TRACE with
/// content is answered with 400 (RFC 9110 section 9.3.8).
///
/// Requests for a WebSocket are forwarded, and the connection becomes a tunnel: see [`TunnelOptions`](super::TunnelOptions).
///
/// Interim responses of a server, such as 103 Early Hints, are relayed by
/// [`InterimResponses`](crate::conn::InterimResponses) in the request's extensions.
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
    tunnels: Arc<Tunnels>,
}

impl<S> Forward<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the figures of the tunnels of all clones.
    pub fn tunnel_stats(&self) -> TunnelStats {
        self.tunnels.stats()
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
            return self.answer(response);
        }
        let switch = match self.tunnels.switch(&request) {
            Ok(switch) => switch,
            Err(TooManyTunnels) => {
                let (status, format) = (
                    StatusCode::SERVICE_UNAVAILABLE,
                    Format::of(request.method(), request.headers()),
                );
                return self.answer(problem::response(status, None, format));
            }
        };
        let version = request.version();
        let expect = self.options.forwarded_expect(&request);
        self.options.prepare(&mut request);
        if let Some(expect) = expect {
            request.headers_mut().insert(EXPECT, expect);
        }
        if let Some(switch) = &switch {
            switch.set_upgrade(&mut request);
        }
        let via = self.options.via.clone();
        if let Some(via) = &via {
            via.append(request.headers_mut(), version);
        }
        self.options.host.apply(&mut request);
        let rewrite = self.options.rewrite.clone().map(|rewrite| {
            request.extensions_mut().insert(ReportServer);
            Box::new(Rewriting { rewrite, host: request.headers().get(HOST).cloned() })
        });
        ResponseFuture(State::Forwarded { future: self.inner.call(request), via, rewrite, switch })
    }
}

impl<S: Clone> Forward<S> {
    /// Answers a request that is not forwarded.
    fn answer<F>(&mut self, response: Response<Body>) -> ResponseFuture<F> {
        self.inner = self.inner.clone(); // releases the reserved capacity: a clone has none
        ResponseFuture(State::Answered(Some(Box::new(response))))
    }
}

/// The rules by which the response is rewritten.
struct Rewriting {
    rewrite: Arc<Rewrite>,
    /// The `Host` that was sent.
    host: Option<HeaderValue>,
}

/// An extension of requests whose responses are rewritten: [`Remote`](super::Remote) adds [`AnsweredBy`] to the response.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReportServer;

/// The server of a response, an extension of it.
#[derive(Debug, Clone)]
pub(super) struct AnsweredBy {
    /// The `Host` of requests without one.
    pub(super) host: HeaderValue,
    pub(super) is_https: bool,
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
        /// Boxed, since few gateways rewrite paths.
        rewrite: Option<Box<Rewriting>>,
        /// Boxed, since few requests ask for a switch.
        switch: Option<Box<Switch>>,
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
        let (future, via, rewrite, switch) = match self.project().0.project() {
            StateProj::Forwarded { future, via, rewrite, switch } => (future, via, rewrite, switch),
            StateProj::Answered(response) => {
                let response = response.take().expect("not polled again after it has ended");
                return Poll::Ready(Ok(*response));
            }
        };
        Poll::Ready(ready!(future.poll(cx)).map(|response| {
            let mut response = response.map(Body::new);
            gateway::prepare_response(response.headers_mut());
            if let Some(switch) = switch.take() {
                switch.complete(&mut response);
            }
            if let Some(Rewriting { rewrite, host }) = rewrite.as_deref() {
                let server = response.extensions_mut().remove::<AnsweredBy>();
                let (headers, host) = (response.headers_mut(), host.as_ref());
                match server {
                    Some(AnsweredBy { host: name, is_https }) => {
                        rewrite.response_of(headers, host, (is_https, &name));
                    }
                    None => rewrite.response(headers, host),
                }
            }
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
