//! `Forward`: rewrites the heads of requests and responses as a gateway must.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{EXPECT, HOST},
    uri::{Parts, Scheme},
};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::tunnels::{Switch, TooManyTunnels, TunnelOptions, TunnelStats, Tunnels},
    peer::Peer,
    semantics::{
        forwarded::ForwardedFields,
        gateway,
        problem::{self, Format},
        rewrite::Rewrite,
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
    pub(super) forwards_expect: bool,
    pub(super) host: HostPolicy,
    pub(super) rewrite: Option<Arc<Rewrite>>,
    pub(super) tunnels: TunnelOptions,
}

/// The `Host` of forwarded requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostPolicy {
    /// The client's `Host`, as with nginx's `proxy_set_header Host $host`.
    #[default]
    Client,
    /// The server's address, for servers that serve several sites or refuse unknown names. `X-Forwarded-Host` has the
    /// client's `Host`.
    Server,
    /// A fixed value.
    Fixed(HeaderValue),
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

    /// Sets whether `Expect: 100-continue` is forwarded, so that a server may refuse a request by its head before the
    /// client has sent the body. Off by default: the client is sent 100 as soon as its body is read, and the server gets
    /// the body at once.
    ///
    /// If the server does not answer within a second, it is sent the body. Its 100 is not relayed: the client is sent 100
    /// when its body is read. Behind a [`RequestBufferLayer`](crate::layer::RequestBufferLayer) this has no effect on the
    /// client, whose body was received before.
    #[must_use]
    pub fn forward_expect(mut self, on: bool) -> Self {
        self.options.forwards_expect = on;
        self
    }

    /// Sets the `Host` of forwarded requests. Default: the client's.
    #[must_use]
    pub fn host(mut self, policy: HostPolicy) -> Self {
        self.options.host = policy;
        self
    }

    /// Rewrites the paths of requests, and the redirects and cookies of responses. A request whose path is not below the
    /// public prefix is answered with 404.
    #[must_use]
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.options.rewrite = Some(Arc::new(rewrite));
        self
    }

    /// Sets the protocols to which connections may switch, and the bounds of tunnels, which all clones of the service
    /// share. Default: WebSocket, [`TunnelOptions::new`].
    #[must_use]
    pub fn tunnels(mut self, options: TunnelOptions) -> Self {
        self.options.tunnels = options;
        self
    }

    /// Sets whether TRACE is forwarded, without credentials. By default it is answered with 501. See
    /// [`gateway::answer`].
    #[must_use]
    pub fn forward_trace(mut self, on: bool) -> Self {
        self.options.forwards_trace = on;
        self
    }
}

impl<S> Layer<S> for ForwardLayer {
    type Service = Forward<S>;

    fn layer(&self, inner: S) -> Forward<S> {
        let tunnels = Tunnels::new(self.options.tunnels.clone());
        Forward { inner, options: self.options.clone(), tunnels }
    }
}

/// Rewrites requests and responses as a gateway must.
///
/// It removes the hop-by-hop fields of both (RFC 9110 section 7.6.1), and the `Expect` of the request unless it is
/// [forwarded](ForwardLayer::forward_expect). It adds the [`ForwardedFields`], which describe the client: the [`Peer`]
/// in the request's extensions. Put it outside of [`Retry`](super::Retry), so that a request is rewritten once and not
/// for each attempt.
///
/// It answers TRACE, and OPTIONS with `Max-Forwards: 0`, instead of the server: see [`gateway::answer`]. A TRACE with
/// content is answered with 400 (RFC 9110 section 9.3.8).
///
/// Requests for a WebSocket are forwarded, and the connection becomes a tunnel: see [`TunnelOptions`].
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
                let (status, format) =
                    (StatusCode::SERVICE_UNAVAILABLE, Format::of(request.headers()));
                return self.answer(problem::response(status, None, format));
            }
        };
        let version = request.version();
        let expect = self.options.forwarded_expect(request.headers());
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

impl Options {
    /// Returns the response to a request that is not forwarded.
    fn answer<B: HttpBody>(&self, request: &mut Request<B>) -> Option<Response<Body>> {
        if let Some(rewrite) = &self.rewrite {
            match rewrite.request_target(request.uri()) {
                Some(target) => *request.uri_mut() = target,
                None => {
                    let format = Format::of(request.headers());
                    return Some(problem::response(StatusCode::NOT_FOUND, None, format));
                }
            }
        }
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

    /// Removes and adds fields.
    fn prepare<B>(&self, request: &mut Request<B>) {
        // Out of the request, so that its peer can be borrowed.
        let mut headers = std::mem::take(request.headers_mut());
        match request.extensions().get::<Peer>() {
            Some(peer) => gateway::prepare_request(&mut headers, &self.fields, peer),
            None => {
                // Without a peer, the server has set the scheme of the target. With one, the client may have set it.
                let scheme = request.uri().scheme().cloned().unwrap_or(Scheme::HTTP);
                let peer = Peer::memory().forwarded_proto(scheme);
                gateway::prepare_request(&mut headers, &self.fields, &peer);
            }
        }
        *request.headers_mut() = headers;
    }

    /// Returns the value of `Expect` that is forwarded.
    fn forwarded_expect(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if !self.forwards_expect {
            return None;
        }
        let expect = headers.get(EXPECT)?;
        expect.as_bytes().eq_ignore_ascii_case(b"100-continue").then(|| expect.clone())
    }
}

impl HostPolicy {
    fn apply<B>(&self, request: &mut Request<B>) {
        match self {
            Self::Client => {}
            Self::Fixed(host) => drop(request.headers_mut().insert(HOST, host.clone())),
            Self::Server => {
                request.headers_mut().remove(HOST);
                // An absolute target has a host too.
                let mut parts = Parts::default();
                parts.path_and_query = request.uri().path_and_query().cloned();
                if let Ok(target) = Uri::from_parts(parts) {
                    *request.uri_mut() = target;
                }
            }
        }
    }
}

/// The rules by which the response is rewritten.
struct Rewriting {
    rewrite: Arc<Rewrite>,
    /// The `Host` that was sent.
    host: Option<HeaderValue>,
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
                rewrite.response(response.headers_mut(), host.as_ref());
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
