//! `serve`: a listener and a service, and safe defaults for everything else.

mod bind;
#[doc = include_str!("serve/deadlines.md")]
pub mod deadlines {}
mod door;
mod front;
mod runtime_threads;
mod signal;
mod tally;

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

use door::Door;

use crate::{
    Budget, HttpService,
    conn::{Config, Http1Config, access_log::Entry},
    net::{Address, Drain, Gate, Listener},
    peer::MinRate,
    proto::h1::Limits,
};

/// Connections that are open at once, unless [`Serve::connections`] says otherwise: as many as
/// fit a usual descriptor limit beside the files and upstream connections they lead to.
pub const CONNECTIONS: usize = 8_192;

/// How long a shutdown waits for exchanges under way, unless [`Serve::shutdown_timeout`] says
/// otherwise.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `service` at `address`: `host:port`, `unix:/path`, or a listener of tokio's.
///
/// Returns a builder that is awaited. It runs in the caller's runtime and ends with the future:
/// dropped, it closes its connections. Everything has a safe default; see [`Serve`]'s methods and
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
/// A service that does not fit is refused here, where it is named, and not at the `.await`:
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
    runtimes: Runtimes,
    connections: usize,
    connections_per_client: Option<usize>,
    shutdown_timeout: Duration,
    others: Vec<Drain>,
    config: Config,
}

/// Where connections run.
#[derive(Debug, Clone, Copy)]
enum Runtimes {
    Caller,
    Threads(usize),
    PerCore,
}

impl Runtimes {
    /// How many threads to start; `None` for the caller's runtime.
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
    /// Serves from `n` threads of its own, each with a single-threaded runtime, a listener on the
    /// same port (`SO_REUSEPORT`) and upstream connections of its own. Zero is an error of
    /// [`bind`](Self::bind).
    ///
    /// By default connections are tasks of the caller's runtime. The last call of this method and of
    /// [`thread_per_core`](Self::thread_per_core) counts.
    pub fn runtime_threads(mut self, n: usize) -> Self {
        self.options.runtimes = Runtimes::Threads(n);
        self
    }

    /// Serves from as many threads of its own as the machine has cores. See
    /// [`runtime_threads`](Self::runtime_threads).
    pub fn thread_per_core(mut self) -> Self {
        self.options.runtimes = Runtimes::PerCore;
        self
    }

    /// At most `n` connections are served at once. Beyond that, each thread accepts one more and holds
    /// it until a place is free; the rest stay in the kernel's accept queue. Idle connections are
    /// closed to free places.
    /// Default [`CONNECTIONS`]. Zero is an error of [`bind`](Self::bind).
    pub fn connections(mut self, n: usize) -> Self {
        self.options.connections = n;
        self
    }

    /// At most `n` connections of one client are open at once: of one IPv4 address, or one IPv6
    /// network of 64 bits. Further ones are closed as they come, without an answer. No limit by
    /// default: behind a proxy, all connections come from the proxy's address.
    pub fn connections_per_client(mut self, n: usize) -> Self {
        self.options.connections_per_client = Some(n);
        self
    }

    /// The memory that incomplete heads, and responses that wait for slow clients, share with other
    /// buffers: give the same one to the layers. Default:
    /// [`process_budget`](crate::net::process_budget), which the layers share too.
    pub fn budget(self, budget: Budget) -> Self {
        self.with(|config| config.budget(budget))
    }

    /// While `gate` is closed no connection is accepted and no further head is read: clients wait
    /// in the kernel until there is room behind the gate. It reserves nothing.
    ///
    /// The gate applies to every request, also to those that do not need the capacity behind it.
    pub fn gate(self, gate: Gate) -> Self {
        self.with(|config| config.gate(gate))
    }

    /// Begins a graceful shutdown when `signal` completes: no connection is accepted any more,
    /// idle ones are closed, exchanges under way are finished. Then the server's future ends.
    ///
    /// By default a server ends with its future only: the library handles no signals unless it is told
    /// to, by [`shutdown_signal()`](shutdown_signal) here.
    pub fn shutdown<F>(mut self, signal: F) -> Self
    where
        F: Future + Send + 'static,
    {
        self.shutdown = Box::pin(async {
            signal.await;
        });
        self
    }

    /// How long a shutdown waits for exchanges under way before it cuts them. Default
    /// [`SHUTDOWN_TIMEOUT`].
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.options.shutdown_timeout = timeout;
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
    pub fn limits(self, limits: impl Into<Arc<Limits>>) -> Self {
        self.with(|config| config.limits(limits))
    }

    /// How long a complete head may wait for the service to be ready: see
    /// [`Config::ready_timeout`].
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.ready_timeout(timeout))
    }

    /// How long the service may take to answer: see [`Config::answer_timeout`].
    pub fn answer_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.answer_timeout(timeout))
    }

    /// How long a write may make no progress: see [`Config::write_timeout`].
    pub fn write_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.write_timeout(timeout))
    }

    /// How fast a client must take a response: see [`Config::write_rate`].
    pub fn write_rate(self, rate: MinRate) -> Self {
        self.with(|config| config.write_rate(rate))
    }

    /// Where the access log is written: see [`Config::access_log`].
    pub fn access_log(self, write: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        self.with(|config| config.access_log(write))
    }

    /// Writes no access log.
    pub fn without_access_log(self) -> Self {
        self.with(Config::without_access_log)
    }

    /// The options of HTTP/1.1 alone. It changes no other option.
    pub fn http1(self, http1: Http1Config) -> Self {
        self.with(|config| config.http1(http1))
    }

    fn with(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.options.config = change(self.options.config);
        self
    }

    /// Binds now, so that the address can be asked for, and connections wait from now on.
    ///
    /// # Errors
    /// An address that cannot be parsed, looked up or bound, and an option that serves nothing.
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

/// A server that listens, and serves once it is awaited.
#[must_use = "a server does nothing until it is awaited"]
pub struct Bound<S> {
    /// Whether each listener gets a thread of its own; else there is one.
    has_threads: bool,
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

impl<S> IntoFuture for Serve<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
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

impl<S> IntoFuture for Bound<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        let Self { has_threads, mut listeners, unlink, service, options, shutdown } = self;
        let Options { connections, connections_per_client, .. } = options;
        let gate = options.config.gate.clone();
        let door = Door::new(listeners.len(), connections, connections_per_client, gate);
        let front = front::Front {
            service,
            config: Arc::new(options.config),
            door: Arc::new(door),
            shutdown_timeout: options.shutdown_timeout,
            others: options.others.into(),
        };
        let address = listeners[0].local_addr();
        let shutdown = async move {
            shutdown.await;
            // Before the drain: whoever takes the path over from now on keeps it.
            drop(unlink);
        };
        Box::pin(async move {
            if let Ok(address) = address {
                tracing::info!(%address, "listening");
            }
            if has_threads {
                return runtime_threads::run(listeners, front, shutdown).await;
            }
            let listener = listeners.pop().expect("bound to one listener at least");
            front.run(0, listener, shutdown).await
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
