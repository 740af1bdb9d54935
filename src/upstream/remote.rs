//! `Remote`: one HTTP server at an address, as a service.

mod http1;
mod options;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, header::HOST};
use tower_service::Service;

pub(super) use self::http1::Http1;
use self::options::Options;
use super::{
    connector::{Connector, Http1Choice},
    endpoint::{Endpoint, EndpointKey},
    error::AttemptError,
    forward::{AnsweredBy, ReportServer},
    pooled,
    server_address::{Scheme, ServerAddress},
    shared::{self, ALPN, SharedConnections},
};
use crate::{
    Budget,
    body::{Body, HttpBody},
    net::Address,
};

pub(super) use options::{Options as RemoteOptions, is_supported};
pub use options::{RESPONSE_TIMEOUT, RemoteBuilder};

/// One HTTP server at an address, as a service.
///
/// - The task that polls the future and the response's body drives the connection, without another task or a channel. A
///   mutex is held only for a moment to take an idle connection and to return it, and is rarely contended.
/// - Idle connections are reused in the runtime that opened them, newest first. They are closed when they have been
///   idle for [`IDLE_TIMEOUT`](super::IDLE_TIMEOUT), and when their runtime ends.
/// - With HTTP/2, requests share a connection, which a task of the runtime drives. More are opened when the server
///   allows no further request on it.
/// - With TLS, the server's certificate is verified.
/// - A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the response's
///   head, connecting included.
/// - `Host` is that of the request or its target; without either, it is the server's address.
///
/// It makes one attempt and does not rewrite the request: [`Retry`](super::Retry) and [`Forward`](super::Forward) do
/// the rest of a gateway's work. Always ready. Cheap to clone: clones share connections.
///
/// ```
/// use vestibule::upstream::{PoolConfig, Remote, ServerAddress};
///
/// let tcp = Remote::new("127.0.0.1:3000")?;
/// let pool = PoolConfig::new().keep_idle(32);
/// let unix: ServerAddress = "unix:/run/app.sock".parse()?;
/// let unix = Remote::builder(unix).pool(pool).build();
/// # drop((tcp, unix));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Remote(Arc<Shared>);

/// The state that clones share.
pub(super) struct Shared {
    pub(super) scheme: Scheme,
    /// The connections of HTTP/1.1.
    pub(super) http1: Arc<pooled::Server<Http1>>,
    /// The connections of HTTP/2.
    pub(super) connections: SharedConnections,
    /// Connects for protocols that are negotiated by ALPN, or HTTP/2.
    pub(super) connector: Connector,
    /// The budget of the connections of HTTP/2.
    #[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "for shared connections"))]
    pub(super) budget: Budget,
    /// Whether the server has selected HTTP/1.1 by ALPN.
    pub(super) http1_choice: Arc<Http1Choice>,
}

impl Remote {
    /// Creates the service of the server at a [`ServerAddress`], with default options.
    ///
    /// # Errors
    /// An address that cannot be parsed or whose scheme this build does not support. For `https://`, the system has
    /// no root certificates.
    pub fn new(address: impl AsRef<str>) -> io::Result<Self> {
        let address: ServerAddress = address.as_ref().parse()?;
        let mut options = Options::default();
        options.prepare(address.scheme())?;
        Ok(Self::with_options(&address, &options))
    }

    /// Returns a builder for the server at a [`ServerAddress`], or at an [`Address`] with HTTP/1.1 without TLS.
    pub fn builder(server: impl Into<ServerAddress>) -> RemoteBuilder {
        RemoteBuilder::new(server.into())
    }

    pub(super) fn with_options(server: &ServerAddress, options: &Options) -> Self {
        let address = server.address().clone();
        let connector = |alpn: &[&[u8]], keep_alive| match server.scheme() {
            Scheme::Http | Scheme::Http2 => Connector::plain(address.clone(), keep_alive),
            Scheme::Https => {
                let host = server.host().unwrap_or("localhost");
                Connector::secure(address.clone(), host, options.tls_client(), alpn, keep_alive)
            }
        };
        let keep_alive = options.pool.keep_alive;
        let protocol = Http1::new(server, options.limits.clone());
        let http1_choice = Arc::<Http1Choice>::default();
        let http1 = connector(&[b"http/1.1"], keep_alive).with_choice(http1_choice.clone());
        let http1 = pooled::Server::new(address.clone(), http1, protocol, options.pool.clone());
        Self(Arc::new(Shared {
            scheme: server.scheme(),
            http1,
            connections: SharedConnections::default(),
            connector: connector(ALPN, keep_alive.with_default_user_timeout()),
            budget: options.budget.clone(),
            http1_choice,
        }))
    }

    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.0.http1.address
    }

    /// Connects once. The error names the server, and its source is the cause.
    pub(super) async fn check(&self) -> io::Result<()> {
        self.0.http1.check(&self.0.connector).await
    }

    /// Returns how many requests wait for a connection, in all runtimes: those beyond
    /// [`max_connections`](super::PoolConfig::max_connections), and over HTTP/2 also those that wait until another request
    /// has opened one and the server's SETTINGS have come.
    pub fn queued(&self) -> usize {
        self.0.http1.queued() + self.0.connections.waiting()
    }

    /// Returns the current number of idle connections, in all runtimes. Connections of HTTP/2 count even if they are
    /// not idle.
    pub fn idle_connections(&self) -> usize {
        self.0.http1.idle_connections() + self.0.connections.len()
    }

    /// Returns whether requests are currently sent by HTTP/1.1.
    fn is_http1(&self) -> bool {
        match self.0.scheme {
            Scheme::Http => true,
            Scheme::Http2 => false,
            Scheme::Https => self.0.http1_choice.is_made(),
        }
    }
}

/// The endpoint's key is the address.
impl From<Remote> for Endpoint<Remote> {
    fn from(remote: Remote) -> Self {
        let server = ServerAddress::new(remote.0.scheme, remote.address().clone());
        Self::new(EndpointKey::from(server.to_string()), remote)
    }
}

impl<B: HttpBody> Service<Request<B>> for Remote {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let mut request = request.map(Body::new);
        let adds_host =
            request.uri().authority().is_none() && !request.headers().contains_key(HOST);
        if adds_host {
            request.headers_mut().insert(HOST, self.0.http1.protocol.host.clone());
        }
        let reports_server = request.extensions().get::<ReportServer>().is_some();
        let state = if self.is_http1() {
            State::Http1(self.0.http1.send(request, ()))
        } else {
            State::Shared(Box::pin(shared::send(self.0.clone(), request)))
        };
        ResponseFuture { state, adds_host, reported: reports_server.then(|| self.0.clone()) }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", self.address()).finish_non_exhaustive()
    }
}

/// The future of [`Remote`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub struct ResponseFuture {
    state: State,
    /// Whether the request has got this server's `Host`.
    adds_host: bool,
    /// The server, if the response must name it.
    reported: Option<Arc<Shared>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "most requests go by HTTP/1.1, whose future needs no allocation then"
)]
enum State {
    Http1(pooled::ResponseFuture<Http1>),
    /// Boxed, since most requests go by HTTP/1.1.
    Shared(SharedFuture),
}

type SharedFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, AttemptError>> + Send>>;

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::Http1(future) => f.debug_tuple("ResponseFuture").field(future).finish(),
            State::Shared(_) => f.write_str("ResponseFuture(Shared)"),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut result = ready!(match &mut self.state {
            State::Http1(future) => Pin::new(future).poll(cx),
            State::Shared(future) => future.as_mut().poll(cx),
        });
        if self.adds_host
            && let Err(error) = &mut result
            && let Some(request) = error.request_mut()
        {
            request.headers_mut().remove(HOST); // it may be sent to another server
        }
        if let Some(server) = self.reported.take()
            && let Ok(response) = &mut result
        {
            let (host, is_https) =
                (server.http1.protocol.host.clone(), server.scheme == Scheme::Https);
            response.extensions_mut().insert(AnsweredBy { host, is_https });
        }
        Poll::Ready(result)
    }
}
