//! `serve`: serves a service at an address, with safe defaults for everything else.
//!
//! [`serve()`] takes an address and a service, and returns a builder that is awaited:
//!
//! | for | use |
//! |---|---|
//! | a stop without lost requests | [`Serve::shutdown`] with [`shutdown_signal`], [`Serve::shutdown_timeout`] |
//! | more than one thread | [`Serve::thread_per_core`], [`Serve::runtime_threads`] |
//! | timeouts and limits of requests | [`Serve::limits`], [`Serve::answer_timeout`], [`Serve::write_timeout`]; all of them are in [`deadlines`] |
//! | limits of connections and memory | [`Serve::connections`], [`Serve::connections_per_client`], [`Serve::budget`], [`Serve::gate`] |
//! | TLS | `Serve::tls` with [`tls::Server`](crate::tls) (feature `tls`) |
//! | HTTP/2 | on by default, by ALPN and by its preface (feature `h2`); `Serve::http2`, `Serve::without_http2` |
//! | the client's address behind a load balancer | [`Serve::proxy_protocol`], or [`TrustedProxyLayer`](crate::layer::TrustedProxyLayer) |
//! | a log of responses | [`Serve::access_log`] |
//! | the address that the system has chosen | [`Serve::bind`], [`Bound::local_addr`] |
//!
//! # Replacing the program
//!
//! A new version takes over without a refused connection if the listening socket outlives both: let systemd hold it
//! (a `.socket` unit). It passes the socket to each start of the service as descriptor 3, with `LISTEN_FDS` (see
//! sd_listen_fds(3)). Connections wait in its queue while the old program, stopped with SIGTERM, completes its requests and
//! the new one starts.
//!
//! ```no_run
//! use std::{env, net::TcpListener, os::fd::{FromRawFd, OwnedFd}};
//! use vestibule::{files, serve, serve::Bind};
//!
//! # async fn run() -> std::io::Result<()> {
//! let address: Bind = if env::var("LISTEN_FDS").is_ok_and(|n| n == "1") {
//!     // SAFETY: it is open, and nothing else owns it.
//!     let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(3) });
//!     listener.set_nonblocking(true)?;
//!     tokio::net::TcpListener::from_std(listener)?.into()
//! } else {
//!     "0.0.0.0:80".into()
//! };
//! serve(address, files::dir("public")).shutdown(serve::shutdown_signal()).await
//! # }
//! ```
//!
//! To replace the application alone, reload its workers, for example by
//! [`Processes::reload`](crate::worker::Processes::reload). The front keeps its sockets, so no connection is affected. Each
//! worker of [`worker::process`](crate::worker::process()) gets a listening socket of its own by `LISTEN_FDS`; it is not
//! one of those above.

mod accept_loop;
mod admission;
mod bind;
#[doc = include_str!("serve/deadlines.md")]
pub mod deadlines {}
#[cfg(feature = "h2")]
mod http2_options;
mod proxy_protocol;
mod runtime_threads;
mod signal;
#[cfg(feature = "tls")]
mod tls_options;

use std::{
    fmt,
    future::{Future, IntoFuture},
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

pub use bind::Bind;
pub use signal::shutdown_signal;

use accept_loop::AcceptLoop;
use admission::Admission;

use crate::{
    Budget, HttpService,
    conn::{Config, Http1Config, access_log::Entry, per_client::PerClientConnections},
    net::{Address, Drain, Gate, Listener},
    peer::MinRate,
    proto::h1::Limits,
};

/// The default of [`Serve::connections`], 8,192: with the files and upstream connections of their requests,
/// they fit a usual descriptor limit.
pub const CONNECTIONS: usize = 8_192;

/// The default of [`Serve::shutdown_timeout`], 30 s.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `service` at `address`: `host:port`, `unix:/path`, or a tokio listener.
///
/// Returns a builder that is awaited. The server runs in the caller's runtime and ends with the future:
/// dropping it closes all connections. All options have safe defaults; see the methods of [`Serve`] and
/// [`Limits`].
///
/// Any [`HttpService`] fits: an `axum::Router`, a `tower_http::services::ServeDir`, or layers of this
/// crate. Its errors become responses with the [status](crate::semantics::problem::status) of their kind; a
/// [`RescueLayer`](crate::layer::RescueLayer) adds JSON and responses of your own.
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
///
/// A service that does not fit is a compile error of this call, not of the `.await`:
///
/// ```compile_fail,E0277
/// use vestibule::{Body, Response, serve};
///
/// let takes_text = tower::service_fn(|_: String| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
/// });
/// serve("127.0.0.1:8080", takes_text);
/// ```
pub fn serve<S>(address: impl Into<Bind>, service: S) -> Serve<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    Serve {
        bind: address.into(),
        service,
        options: Options {
            runtimes: Runtimes::Caller,
            connections: CONNECTIONS,
            connections_per_client: None,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            others: Vec::new(),
            config: Config::new(),
        },
        shutdown: Box::pin(std::future::pending()),
    }
}

/// A builder of a server, which runs when it is awaited.
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
    runtimes: Runtimes,
    connections: usize,
    connections_per_client: Option<usize>,
    shutdown_timeout: Duration,
    others: Vec<Drain>,
    config: Config,
}

/// The runtimes in which connections run.
#[derive(Debug, Clone, Copy)]
enum Runtimes {
    Caller,
    Threads(usize),
    PerCore,
}

impl Runtimes {
    /// Returns the number of threads to start; `None` for the caller's runtime.
    fn count(self) -> io::Result<Option<NonZeroUsize>> {
        match self {
            Self::Caller => Ok(None),
            Self::PerCore => {
                Ok(Some(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)))
            }
            Self::Threads(n) => match NonZeroUsize::new(n) {
                Some(n) => Ok(Some(n)),
                None => Err(invalid("0 threads serve nothing: see thread_per_core()")),
            },
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl<S> Serve<S> {
    /// Serves on `n` threads, each with a single-threaded runtime, a listener on the same port
    /// (`SO_REUSEPORT`) and its own upstream connections. Zero is an error of [`bind`](Self::bind).
    ///
    /// By default connections are tasks of the caller's runtime. The last call of this method or
    /// [`thread_per_core`](Self::thread_per_core) takes effect.
    pub fn runtime_threads(mut self, n: usize) -> Self {
        self.options.runtimes = Runtimes::Threads(n);
        self
    }

    /// Serves on one thread per core of the machine, see [`runtime_threads`](Self::runtime_threads).
    pub fn thread_per_core(mut self) -> Self {
        self.options.runtimes = Runtimes::PerCore;
        self
    }

    /// Sets the maximum number of connections served at once. When it is reached, each thread accepts one
    /// more and holds it until a connection ends; the rest stay in the kernel's accept queue. Idle
    /// connections are closed to admit them. Defaults to [`CONNECTIONS`]. Zero is an error of
    /// [`bind`](Self::bind).
    pub fn connections(mut self, n: usize) -> Self {
        self.options.connections = n;
        self
    }

    /// Sets the maximum number of connections that one client may have open: one IPv4 address, or one IPv6
    /// network of 64 bits. Further ones are closed at once, without a response. There is no limit by
    /// default: behind a proxy, all connections come from the proxy's address, unless it tells that of its
    /// client by the [PROXY protocol](Self::proxy_protocol).
    pub fn connections_per_client(mut self, n: usize) -> Self {
        self.options.connections_per_client = Some(n);
        self
    }

    /// Sets the memory budget that incomplete heads, and responses that wait for slow clients, share with
    /// other buffers. Pass the same one to the layers. Defaults to
    /// [`process_budget`](crate::net::process_budget), which is the default of the layers too.
    pub fn budget(self, budget: Budget) -> Self {
        self.with(|config| config.budget(budget))
    }

    /// Sets a gate: while it is closed, no connection is accepted and no further head is read. Clients wait
    /// in the kernel until there is capacity. It reserves nothing.
    ///
    /// The gate applies to every request, including those that do not need its capacity.
    pub fn gate(self, gate: Gate) -> Self {
        self.with(|config| config.gate(gate))
    }

    /// Begins a graceful shutdown when `signal` completes: no further connection is accepted, idle ones are
    /// closed, active exchanges are finished. Then the server's future ends.
    ///
    /// By default a server ends only with its future: the library handles no signals, unless
    /// [`shutdown_signal()`](shutdown_signal) is passed here.
    pub fn shutdown<F>(mut self, signal: F) -> Self
    where
        F: Future + Send + 'static,
    {
        self.shutdown = Box::pin(async {
            signal.await;
        });
        self
    }

    /// Sets how long a shutdown waits for active exchanges before it aborts them. Defaults to
    /// [`SHUTDOWN_TIMEOUT`].
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.options.shutdown_timeout = timeout;
        self
    }

    /// Adds a drain that a shutdown also begins: after the drain of the connections, it waits for the watches of
    /// `other`, and aborts those that are left after [`shutdown_timeout`](Self::shutdown_timeout). The timeout
    /// covers both.
    ///
    /// It is for work that is not tied to a connection, for example requests that continue after their client
    /// has disconnected:
    ///
    /// ```no_run
    /// use tower::Layer;
    /// use vestibule::{Response, layer::DisconnectLayer, serve, worker};
    ///
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = worker::threads(4, || worker::blocking(|_| Response::new("hi"))).start()?;
    /// let disconnect = DisconnectLayer::detach();
    /// let detached = disconnect.detached();
    /// serve("127.0.0.1:8080", disconnect.layer(app))
    ///     .shutdown(serve::shutdown_signal())
    ///     .drain_also(detached)
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn drain_also(mut self, other: Drain) -> Self {
        self.options.others.push(other);
        self
    }

    /// Sets bounds on the size and slowness of requests, see [`Config::limits`].
    pub fn limits(self, limits: impl Into<Arc<Limits>>) -> Self {
        self.with(|config| config.limits(limits))
    }

    /// Sets how long a complete head may wait for the service to be ready, see
    /// [`Config::ready_timeout`].
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.ready_timeout(timeout))
    }

    /// Sets how long the service may take to answer, see [`Config::answer_timeout`].
    pub fn answer_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.answer_timeout(timeout))
    }

    /// Sets how long a write may make no progress, see [`Config::write_timeout`].
    pub fn write_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.write_timeout(timeout))
    }

    /// Sets the minimum rate at which a client must read a response, see [`Config::write_rate`].
    pub fn write_rate(self, rate: MinRate) -> Self {
        self.with(|config| config.write_rate(rate))
    }

    /// Sets the function that writes the access log, see [`Config::access_log`].
    pub fn access_log(self, write: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        self.with(|config| config.access_log(write))
    }

    /// Disables the access log.
    pub fn without_access_log(self) -> Self {
        self.with(Config::without_access_log)
    }

    /// Sets the options of HTTP/1.1. It changes no other option.
    pub fn http1(self, http1: Http1Config) -> Self {
        self.with(|config| config.http1(http1))
    }

    fn with(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.options.config = change(self.options.config);
        self
    }

    /// Binds and listens now: the address is known, and the kernel queues connections until the result is
    /// awaited.
    ///
    /// # Errors
    /// An address that cannot be parsed, resolved or bound; zero threads or connections.
    pub fn bind(self) -> io::Result<Bound<S>> {
        if self.options.connections == 0 {
            return Err(invalid("0 connections serve nothing"));
        }
        let threads = self.options.runtimes.count()?;
        let (listeners, unlink) = self.bind.listen(threads.map_or(1, NonZeroUsize::get))?;
        Ok(Bound {
            has_threads: threads.is_some(),
            listeners,
            unlink,
            service: self.service,
            options: self.options,
            shutdown: self.shutdown,
        })
    }
}

/// A server that listens, and serves when it is awaited.
#[must_use = "a server does nothing until it is awaited"]
pub struct Bound<S> {
    /// Whether each listener gets its own thread. If not, there is one listener.
    has_threads: bool,
    listeners: Vec<Listener>,
    unlink: bind::Unlink,
    service: S,
    options: Options,
    shutdown: Signal,
}

impl<S> Bound<S> {
    /// Returns the address on which it listens, with the port chosen by the kernel.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<Address> {
        self.listeners[0].local_addr()
    }
}

/// The future of a running server.
pub type ServeFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

impl<S> IntoFuture for Serve<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// An error of [`bind`](Self::bind) or of starting the runtimes.
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        match self.bind() {
            Ok(bound) => bound.into_future(),
            Err(e) => Box::pin(std::future::ready(Err(e))),
        }
    }
}

impl<S> IntoFuture for Bound<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        let Self { has_threads, mut listeners, unlink, service, options, shutdown } = self;
        let Options { connections, connections_per_client, mut config, .. } = options;
        config.per_client = connections_per_client.map(PerClientConnections::new);
        let config = Arc::new(config);
        let admission = Admission::new(listeners.len(), connections, config.clone());
        let accept_loop = AcceptLoop {
            service,
            config,
            admission: Arc::new(admission),
            shutdown_timeout: options.shutdown_timeout,
            others: options.others.into(),
        };
        let address = listeners[0].local_addr();
        let shutdown = async move {
            shutdown.await;
            // Before the drain, so that a successor can bind the path now and keep it.
            drop(unlink);
        };
        Box::pin(async move {
            if let Ok(address) = address {
                tracing::info!(%address, "listening");
            }
            if has_threads {
                return runtime_threads::run(listeners, accept_loop, shutdown).await;
            }
            let listener = listeners.pop().expect("bound to one listener at least");
            accept_loop.run(0, listener, shutdown).await
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
