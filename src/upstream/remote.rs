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
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response, header::HOST};
use tower_service::Service;

pub(super) use self::http1::Http1;
use self::options::Options;
use super::{
    connector::Connector,
    endpoint::{Endpoint, EndpointKey},
    error::AttemptError,
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
/// - The task that polls the future and the response's body drives the connection: there is no other task, channel or
///   lock between a request and its response.
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
/// use vestibule::upstream::{PoolConfig, Remote};
///
/// let tcp = Remote::new("127.0.0.1:3000")?;
/// let pool = PoolConfig::new().keep_idle(32);
/// let unix = Remote::builder("unix:/run/app.sock".parse()?).pool(pool).build();
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
    pub(super) speaks_http1: AtomicBool,
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

    /// Returns a builder for the server at this address.
    pub fn builder(address: Address) -> RemoteBuilder {
        RemoteBuilder::new(address.into())
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
        let protocol = Http1::new(&address, options.limits.clone());
        let http1 = connector(&[b"http/1.1"], keep_alive);
        let http1 = pooled::Server::new(address.clone(), http1, protocol, options.pool.clone());
        Self(Arc::new(Shared {
            scheme: server.scheme(),
            http1,
            connections: SharedConnections::default(),
            connector: connector(ALPN, keep_alive.with_default_user_timeout()),
            budget: options.budget.clone(),
            speaks_http1: AtomicBool::new(false),
        }))
    }

    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.0.http1.address
    }

    /// Connects once. The error names the server and the cause.
    pub(super) async fn check(&self) -> io::Result<()> {
        self.0.http1.check(&self.0.connector).await
    }

    /// Returns how many requests wait for a connection, in all runtimes, if connections are
    /// [bounded](super::PoolConfig::max_connections).
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
            Scheme::Https => self.0.speaks_http1.load(Ordering::Relaxed),
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
        if request.uri().authority().is_none() && !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.0.http1.protocol.host.clone());
        }
        ResponseFuture(if self.is_http1() {
            State::Http1(self.0.http1.send(request, ()))
        } else {
            State::Shared(Box::pin(shared::send(self.0.clone(), request)))
        })
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
#[derive(Debug)]
pub struct ResponseFuture(State);

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

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(future) => future.fmt(f),
            Self::Shared(_) => f.write_str("Shared"),
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Http1(future) => Pin::new(future).poll(cx),
            State::Shared(future) => future.as_mut().poll(cx),
        }
    }
}
