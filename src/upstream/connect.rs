//! `Connect`: tunnels to other hosts by the method CONNECT.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, uri::Authority};
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{CONNECT_TIMEOUT, TooManyTunnels, TunnelOptions, TunnelStats};
use crate::{
    body::{Body, HttpBody},
    conn::{
        RequestInfo, log_request,
        tunnels::{Switch, Tunnels},
    },
    error::{BoxError, Error, Kind},
    net::{KeepAlive, Stream},
    peer::Network,
    policy::destinations::{Destinations, HostPattern},
    semantics::problem::{self, Format},
    service::HttpService,
};

/// Opens tunnels to other hosts by the method CONNECT (RFC 9110 section 9.3.6), over HTTP/1.1 and HTTP/2: a forward
/// proxy for TLS and other protocols, to allowed destinations only.
///
/// It needs two options, both off by default. The driver refuses CONNECT with 501 unless
/// [`Limits::allow_connect`](crate::proto::h1::Limits::allow_connect) is set, and the layer refuses every destination
/// with 403 unless an [`allow`](Self::allow) names it. The address must also be public, or in an
/// [allowed network](Self::allow_network), so that a client cannot reach this machine or its network by a name that it
/// controls. Connections are made only to addresses that were checked. Requests of other methods are passed to the inner
/// service.
///
/// To restrict the clients, put a layer in front of it, such as [`AccessLayer`](crate::layer::AccessLayer).
///
/// | status | cause |
/// |---|---|
/// | 403 | the host, the port, or all addresses of the host are not allowed |
/// | 502 | the host has no address, or refuses the connection |
/// | 503 | the maximum number of tunnels is active: [`TunnelOptions::max_tunnels`] |
/// | 504 | no connection was made within the [`connect_timeout`](Self::connect_timeout) |
///
/// Tunnels have the bounds of [`TunnelOptions`]: a shutdown closes them after the drain timeout. See
/// [`stats`](Self::stats) for their counters.
///
/// ```no_run
/// use tower::Layer;
/// use vestibule::{Router, proto::h1::Limits, serve, upstream::ConnectLayer};
///
/// # async fn run() -> Result<(), vestibule::BoxError> {
/// let proxy = ConnectLayer::new()
///     .allow("*.example.com".parse()?, [443])
///     .allow("git.example.org".parse()?, [22, 443])
///     .allow_network("10.2.0.0/16".parse()?);
/// serve("10.1.0.1:3128", proxy.layer(Router::new()))
///     .limits(Limits::new().allow_connect(true))
///     .await?;
/// # Ok(()) }
/// ```
///
/// Then `curl --proxytunnel --proxy http://10.1.0.1:3128 https://api.example.com/` uses a tunnel.
#[derive(Clone)]
pub struct ConnectLayer {
    allowed: Arc<Destinations>,
    connect_timeout: Duration,
    keep_alive: KeepAlive,
    tunnels: Arc<Tunnels>,
}

impl ConnectLayer {
    /// Creates a layer that allows no destination.
    pub fn new() -> Self {
        Self {
            allowed: Arc::default(),
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: KeepAlive::new(),
            tunnels: Tunnels::new(TunnelOptions::new()),
        }
    }

    /// Allows these hosts on these ports, if their addresses are public or in an allowed network.
    #[must_use]
    pub fn allow(mut self, hosts: HostPattern, ports: impl IntoIterator<Item = u16>) -> Self {
        Arc::make_mut(&mut self.allowed).allow(hosts, ports);
        self
    }

    /// Allows the addresses of a network that are not [public](crate::policy::destinations::is_public), for allowed
    /// hosts.
    #[must_use]
    pub fn allow_network(mut self, network: Network) -> Self {
        Arc::make_mut(&mut self.allowed).allow_network(network);
        self
    }

    /// Sets the timeout of resolving the name and connecting. Defaults to [`CONNECT_TIMEOUT`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the options of TCP keep-alive to the destinations. Defaults to [`KeepAlive::new`], by which a tunnel to a host
    /// that has vanished fails after 30 s. If that host has not acknowledged sent data, TCP sends no probes: the idle timeout
    /// of tunnels ends it, or a shorter [`KeepAlive::user_timeout`].
    #[must_use]
    pub fn keep_alive(mut self, options: KeepAlive) -> Self {
        self.keep_alive = options;
        self
    }

    /// Sets the bounds of the tunnels; [`protocols`](TunnelOptions::protocols) has no effect. Services that exist already
    /// keep their bounds. Defaults to [`TunnelOptions::new`].
    #[must_use]
    pub fn tunnels(mut self, options: TunnelOptions) -> Self {
        self.tunnels = Tunnels::new(options);
        self
    }

    /// Returns the counters of the tunnels of all services of this layer.
    pub fn stats(&self) -> TunnelStats {
        self.tunnels.stats()
    }

    /// Returns the future that connects, or the response to a refused request.
    fn begin<B: HttpBody>(&self, request: &Request<B>) -> Result<Tunneling, Box<Response<Body>>> {
        let refuse = |status| {
            Box::new(problem::response(
                status,
                None,
                Format::of(request.method(), request.headers()),
            ))
        };
        let target = request.uri().authority().filter(|_| request.uri().scheme().is_none());
        let Some(target) = target.filter(|_| request.body().is_end_stream()) else {
            return Err(refuse(StatusCode::BAD_REQUEST)); // the driver refuses it before
        };
        if !self.allowed.allows(target) {
            let info = RequestInfo::from_request(request);
            log_request!(debug, "vestibule::tunnel", &info, %target, "the destination is not allowed");
            return Err(refuse(StatusCode::FORBIDDEN));
        }
        let switch = match self.tunnels.admit(HeaderValue::from_static("connect"), request) {
            Ok(switch) => switch,
            Err(TooManyTunnels) => return Err(refuse(StatusCode::SERVICE_UNAVAILABLE)),
        };
        let (layer, target) = (self.clone(), target.clone());
        let format = Format::of(request.method(), request.headers());
        Ok(Box::pin(layer.connect(target, switch, format)))
    }

    async fn connect(
        self,
        target: Authority,
        switch: Switch,
        format: Format,
    ) -> Result<Response<Body>, BoxError> {
        let allows = |ip| self.allowed.allows_address(ip);
        let connect = Stream::connect_allowed(target.as_str(), allows);
        let error = match tokio::time::timeout(self.connect_timeout, connect).await {
            Ok(Ok(stream)) => {
                stream.set_keep_alive(&self.keep_alive);
                return Ok(switch.connected(stream));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        if error.kind() == io::ErrorKind::PermissionDenied {
            log_request!(debug, "vestibule::tunnel", switch.request(), %target, %error, "the destination is not allowed");
            return Ok(problem::response(StatusCode::FORBIDDEN, None, format));
        }
        let is_timeout = error.kind() == io::ErrorKind::TimedOut;
        let kind = if is_timeout { Kind::Timeout } else { Kind::BadGateway };
        Err(Error::new(kind, NotConnected { target, source: error }).into())
    }
}

impl Default for ConnectLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConnectLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectLayer").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

/// A connection to the destination of a tunnel failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {target} for a tunnel")]
struct NotConnected {
    target: Authority,
    source: io::Error,
}

impl<S> Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, inner: S) -> Connect<S> {
        Connect { inner, layer: self.clone() }
    }
}

/// The service of [`ConnectLayer`].
///
/// It is ready when the inner service is. Capacity that the inner service has reserved is released when a tunnel begins.
#[derive(Debug, Clone)]
pub struct Connect<S> {
    inner: S,
    layer: ConnectLayer,
}

impl<S, B> Service<Request<B>> for Connect<S>
where
    S: HttpService<B> + Clone,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if *request.method() != Method::CONNECT {
            return ResponseFuture(State::Inner(self.inner.call(request)));
        }
        self.inner = self.inner.clone(); // releases the reserved capacity: a clone has none
        ResponseFuture(match self.layer.begin(&request) {
            Ok(tunneling) => State::Connects(tunneling),
            Err(refused) => State::Refused(Some(refused)),
        })
    }
}

type Tunneling = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

/// The future of [`Connect`].
#[pin_project]
pub struct ResponseFuture<F>(#[pin] State<F>);

#[pin_project(project = StateProj)]
enum State<F> {
    Inner(#[pin] F),
    Connects(Tunneling),
    Refused(Option<Box<Response<Body>>>),
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response<Body>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Inner(future) => {
                future.poll(cx).map_ok(|response| response.map(Body::new)).map_err(Into::into)
            }
            StateProj::Connects(tunneling) => tunneling.as_mut().poll(cx),
            StateProj::Refused(response) => {
                let response = response.take().expect("a future is not polled after its end");
                Poll::Ready(Ok(*response))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
