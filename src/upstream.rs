//! Reverse proxy: requests to one or several HTTP/1.1 servers, as a service.
//!
//! The connection to the server is driven by the task that serves the client: there is no task,
//! channel or lock between the request and its response. Connections are kept for further
//! requests, per endpoint and per runtime, since a socket must not leave the runtime that made it.

mod endpoint;
mod forward;
mod pool;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tower_service::Service;

use crate::{
    body::Body, error::BoxError, net::Address, peer::Deadline, policy::pick::RoundRobin,
    proto::h1::Limits, semantics::forwarded::Forward,
};

use endpoint::Endpoint;

/// Idle connections kept to one server by one runtime, unless [`Upstream::keep_idle`] says
/// otherwise: as many as requests that one core has under way at a time, as a rule.
pub const KEEP_IDLE: usize = 128;

/// How long an idle connection is kept: less than servers' own limits (nginx: 75 s, gunicorn: 2 s
/// but it closes them itself), so that a request seldom meets one that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to answer, and to go on answering.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// A service that sends each request to one of some servers, in turn.
///
/// - A server that cannot be reached is left out for a second, and the request goes to the next.
/// - A kept connection that turns out to be closed is replaced, and the request sent again if its
///   method is idempotent and nothing of an answer came.
/// - Hop-by-hop fields are removed both ways, `Host` is kept, and `X-Forwarded-*` says who the
///   client is: see [`Forward`].
/// - A request with a [`Deadline`] is given no more time than that, connecting included, and is not
///   sent if it has passed.
/// - Errors are [`Kind::BadGateway`](crate::error::Kind::BadGateway) and
///   [`Kind::Timeout`](crate::error::Kind::Timeout).
///
/// Always ready. Cheap to clone: clones share connections.
///
/// ```
/// use vestibule::upstream::Upstream;
///
/// let api = Upstream::new(["127.0.0.1:3000", "http://127.0.0.1:3001", "unix:/run/app.sock"])?
///     .keep_idle(32);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Upstream(Arc<Shared>);

struct Shared {
    endpoints: Vec<Endpoint>,
    turn: RoundRobin,
    config: Config,
}

#[derive(Debug, Clone)]
struct Config {
    keep_idle: usize,
    idle_timeout: Duration,
    connect_timeout: Duration,
    limits: Arc<Limits>,
    forward: Forward,
}

impl Upstream {
    /// A proxy to these servers: `host:port`, `http://host:port` or `unix:/path`.
    ///
    /// # Errors
    /// An address that cannot be parsed, or none at all.
    pub fn new<A: AsRef<str>>(servers: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let addresses = servers.into_iter().map(|s| s.as_ref().parse());
        Self::to(addresses.collect::<io::Result<Vec<Address>>>()?)
    }

    /// A proxy to the servers at these addresses.
    ///
    /// # Errors
    /// No address.
    pub fn to(addresses: impl IntoIterator<Item = Address>) -> io::Result<Self> {
        let endpoints: Vec<_> = addresses.into_iter().map(Endpoint::new).collect();
        if endpoints.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no server to send to"));
        }
        let limits = Limits {
            head_timeout: RESPONSE_TIMEOUT,
            body_timeout: RESPONSE_TIMEOUT,
            head_bytes: 64 << 10, // the servers are ours: cookies they set may be many
            ..Limits::default()
        };
        Ok(Self(Arc::new(Shared {
            endpoints,
            turn: RoundRobin::new(),
            config: Config {
                keep_idle: KEEP_IDLE,
                idle_timeout: IDLE_TIMEOUT,
                connect_timeout: CONNECT_TIMEOUT,
                limits: Arc::new(limits),
                forward: Forward::new(),
            },
        })))
    }

    /// At most `n` idle connections to each server, kept by each runtime. Default [`KEEP_IDLE`].
    pub fn keep_idle(self, n: usize) -> Self {
        self.with(|c| c.keep_idle = n)
    }

    /// How long an idle connection is kept. Default [`IDLE_TIMEOUT`].
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with(|c| c.idle_timeout = timeout)
    }

    /// How long connecting may take, for each server tried. Default [`CONNECT_TIMEOUT`].
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|c| c.connect_timeout = timeout)
    }

    /// Bounds on what servers may send, and how slowly: `head_timeout` is the time to the
    /// response's head, `body_timeout` bounds each pause in its body. Default
    /// [`RESPONSE_TIMEOUT`] for both.
    pub fn limits(self, limits: Limits) -> Self {
        self.with(|c| c.limits = Arc::new(limits))
    }

    /// What the servers are told of the client. Default: `X-Forwarded-For`, `-Proto` and `-Host`,
    /// and nothing that the client says of itself.
    pub fn forward(self, forward: Forward) -> Self {
        self.with(|c| c.forward = forward)
    }

    /// Changes an option. A handle that is shared already gets connections of its own.
    fn with(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut shared = Arc::try_unwrap(self.0).unwrap_or_else(|shared| Shared {
            endpoints: shared.endpoints.iter().map(|e| Endpoint::new(e.address.clone())).collect(),
            turn: RoundRobin::new(),
            config: shared.config.clone(),
        });
        change(&mut shared.config);
        Self(Arc::new(shared))
    }
}

impl Service<Request<Body>> for Upstream {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let deadline = request.extensions().get::<Deadline>().copied();
        let forward = forward::forward(self.0.clone(), request);
        ResponseFuture(match deadline {
            None => Box::pin(forward),
            Some(deadline) => Box::pin(forward::within(deadline, forward)),
        })
    }
}

/// The future of [`Upstream`].
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<_> = self.0.endpoints.iter().map(|e| e.address.to_string()).collect();
        f.debug_struct("Upstream").field("servers", &servers).finish_non_exhaustive()
    }
}
