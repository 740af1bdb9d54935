//! `serve`: a listener and a service, and safe defaults for everything else.

mod bind;
#[doc = include_str!("serve/deadlines.md")]
pub mod deadlines {}
mod door;
mod front;
mod tally;
mod threads;

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

pub use bind::Bind;

use door::Door;

use crate::{
    Budget,
    body::Body,
    conn::h1::server,
    error::BoxError,
    layer::Rescue,
    net::{Address, Drain, Gate, Listener},
    proto::h1::Limits,
};

/// Connections that are open at once, unless [`Serve::connections`] says otherwise: as many as
/// fit a usual descriptor limit beside the files and upstream connections they lead to.
pub const CONNECTIONS: usize = 8_192;

/// How long a shutdown waits for exchanges under way, unless [`Serve::drain`] says otherwise.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Serves `service` at `address`: `host:port`, `unix:/path`, or a listener of tokio's.
///
/// Returns a builder that is awaited. It runs in the caller's runtime and ends with the future:
/// dropped, it closes its connections. Everything has a safe default; see [`Serve`]'s methods and
/// [`Limits`].
///
/// Any `Service<Request<Body>>` fits whose response body is an [`http_body::Body`] of [`Bytes`]
/// and whose error is `Into<BoxError>`: an `axum::Router`, a `tower_http::services::ServeDir`, or
/// layers of this crate. Its errors become responses by [`rescue`]'s table.
///
/// ```no_run
/// use std::convert::Infallible;
/// use vestibule::{Body, Request, Response, serve};
///
/// # async fn run() -> std::io::Result<()> {
/// let hello = tower::service_fn(|_: Request| async {
///     Ok::<_, Infallible>(Response::new(Body::from("hello")))
/// });
/// serve("127.0.0.1:8080", hello).await
/// # }
/// ```
pub fn serve<S>(address: impl Into<Bind>, service: S) -> Serve<S> {
    Serve {
        bind: address.into(),
        service,
        options: Options {
            threads: None,
            connections: CONNECTIONS,
            connections_per_client: None,
            drain: DRAIN,
            others: Vec::new(),
            http1: server::Config::default(),
        },
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A server about to be: options, then `.await`.
#[must_use = "a server does nothing until it is awaited"]
pub struct Serve<S> {
    bind: Bind,
    service: S,
    options: Options,
    shutdown: Signal,
}

type Signal = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Debug, Clone)]
struct Options {
    threads: Option<NonZeroUsize>,
    connections: usize,
    connections_per_client: Option<usize>,
    drain: Duration,
    others: Vec<Drain>,
    http1: server::Config,
}

impl<S> Serve<S> {
    /// Serves from `n` threads of its own, each with a single-threaded runtime, a listener on the
    /// same port (`SO_REUSEPORT`) and upstream connections of its own. Zero means one per core.
    ///
    /// Without it, connections are tasks of the caller's runtime.
    pub fn threads(mut self, n: usize) -> Self {
        let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.options.threads = Some(NonZeroUsize::new(n).unwrap_or_else(cores));
        self
    }

    /// At most `n` connections are served at once; of further ones each thread accepts one, which
    /// waits, and the others wait in the kernel's queue. Connections that are idle then end to make
    /// room. Default [`CONNECTIONS`].
    pub fn connections(mut self, n: usize) -> Self {
        self.options.connections = n.max(1);
        self
    }

    /// At most `n` connections of one client are open at once: of one IPv4 address, or one IPv6
    /// network of 64 bits. Further ones are closed as they come, without an answer. No limit by
    /// default: behind another proxy all connections are its own.
    pub fn connections_per_client(mut self, n: usize) -> Self {
        self.options.connections_per_client = Some(n);
        self
    }

    /// What heads and answers that wait for slow clients may take together with other buffers: give
    /// the same one to the layers. Default: one of its own.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.options.http1.budget = budget;
        self
    }

    /// While `gate` is closed no connection is accepted and no further head is read: clients wait
    /// in the kernel until there is room behind the gate. It reserves nothing.
    ///
    /// It holds up every request, also those that would not need what it stands for.
    pub fn gate(mut self, gate: Gate) -> Self {
        self.options.http1.gate = gate;
        self
    }

    /// Begins a graceful shutdown when `signal` completes: no connection is accepted any more,
    /// idle ones are closed, exchanges under way are finished. Then the server's future ends.
    ///
    /// The library installs no signal handlers; `tokio::signal::ctrl_c()` fits here.
    pub fn shutdown<F>(mut self, signal: F) -> Self
    where
        F: Future + Send + 'static,
    {
        self.shutdown = Box::pin(async {
            signal.await;
        });
        self
    }

    /// How long a shutdown waits for exchanges under way before it cuts them. Default [`DRAIN`].
    pub fn drain(mut self, timeout: Duration) -> Self {
        self.options.drain = timeout;
        self
    }

    /// A shutdown also waits for what is registered in `other`, within the same time, then cuts it:
    /// work that goes on without its client, say, by
    /// [`DisconnectLayer::detached`](crate::layer::DisconnectLayer::detached).
    pub fn drain_also(mut self, other: Drain) -> Self {
        self.options.others.push(other);
        self
    }

    /// Bounds on what clients may send, and how slowly.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.http1.limits = Arc::new(limits);
        self
    }

    /// All options of the HTTP/1.1 driver.
    pub fn http1(mut self, config: server::Config) -> Self {
        self.options.http1 = config;
        self
    }

    /// Binds now, so that the address can be asked for, and connections wait from now on.
    ///
    /// # Errors
    /// An address that cannot be parsed, looked up or bound.
    pub fn bind(self) -> io::Result<Bound<S>> {
        let n = self.options.threads.map_or(1, NonZeroUsize::get);
        let (listeners, unlink) = self.bind.listen(n)?;
        Ok(Bound {
            listeners,
            unlink,
            service: self.service,
            options: self.options,
            shutdown: self.shutdown,
        })
    }
}

/// A server that listens, and serves once it is awaited.
#[must_use = "a server does nothing until it is awaited"]
pub struct Bound<S> {
    /// One for each thread.
    listeners: Vec<Listener>,
    unlink: bind::Unlink,
    service: S,
    options: Options,
    shutdown: Signal,
}

impl<S> Bound<S> {
    /// Where it listens, with the port that the kernel chose.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.listeners[0].local_addr()
    }
}

/// A running server.
pub type ServeFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl<S, B> IntoFuture for Serve<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// An error is one of binding; once it serves, it ends by shutdown only.
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        match self.bind() {
            Ok(bound) => bound.into_future(),
            Err(e) => Box::pin(std::future::ready(Err(e))),
        }
    }
}

impl<S, B> IntoFuture for Bound<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        let Self { mut listeners, unlink, service, options, shutdown } = self;
        let Options { connections, connections_per_client, .. } = options;
        let gate = options.http1.gate.clone();
        let door = Door::new(listeners.len(), connections, connections_per_client, gate);
        let front = front::Front {
            service: Rescue::new(service),
            http1: Arc::new(options.http1),
            door: Arc::new(door),
            drain: options.drain,
            others: options.others.into(),
        };
        let shutdown = async move {
            shutdown.await;
            // Before the drain: whoever takes the path over from now on keeps it.
            drop(unlink);
        };
        Box::pin(async move {
            match options.threads {
                Some(_) => threads::run(listeners, front, shutdown).await,
                None => {
                    let listener = listeners.pop().expect("bound to one listener at least");
                    front.run(0, listener, shutdown).await
                }
            }
        })
    }
}

impl<S> fmt::Debug for Serve<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bind, options, .. } = self;
        f.debug_struct("Serve").field("bind", bind).field("options", options).finish()
    }
}

impl<S> fmt::Debug for Bound<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listeners, options, .. } = self;
        f.debug_struct("Bound").field("listeners", listeners).field("options", options).finish()
    }
}
