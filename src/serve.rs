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
//! In the unit, `KillMode=mixed` sends SIGTERM to this program alone, which ends its workers when their requests are complete.
//! With the default, systemd signals the workers at the same time, and each program reacts in its own way: those of
//! [`worker::wsgi`](crate::worker::wsgi) and [`worker::asgi`](crate::worker::asgi) serve until this program ends them, php-fpm
//! ends its requests at once. `TimeoutStopSec` must be above [`Serve::shutdown_timeout`].
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
mod options;
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
use options::{Options, Runtimes, invalid};

use crate::{
    HttpService,
    conn::{Config, per_client::PerClientConnections},
    net::{Address, Listener, raise_open_files},
};

/// The default of [`Serve::connections`], 8,192: with the files and upstream connections of their requests,
/// they fit a usual hard limit of open files.
pub const CONNECTIONS: usize = 8_192;

/// The default of [`Serve::shutdown_timeout`], 30 s.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves `service` at `address`: `host:port`, `unix:/path`, or a tokio listener.
///
/// Returns a builder that is awaited. The server runs in the caller's runtime and ends with the future:
/// dropping it closes all connections. All options have safe defaults; see the methods of [`Serve`] and
/// [`Limits`](crate::proto::h1::Limits).
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

impl<S> Serve<S> {
    /// Binds and listens now: the address is known, and the kernel queues connections until the result is
    /// awaited.
    ///
    /// Raises the soft limit of open files of this process (`RLIMIT_NOFILE`), as far as its hard limit permits, to four
    /// for each [connection](Self::connections) and 1,024 others. If that is too few, the maximum number of connections is
    /// three eighths of the limit: as many are for connections to other servers, and the rest is for files, workers and the
    /// program itself.
    ///
    /// # Errors
    /// An address that cannot be parsed, resolved or bound; zero threads or connections.
    pub fn bind(self) -> io::Result<Bound<S>> {
        if self.options.connections == 0 || self.options.connections_per_client == Some(0) {
            return Err(invalid("0 connections serve nothing"));
        }
        let connections = within_open_files(self.options.connections);
        let threads = self.options.runtimes.count()?;
        let closes_listeners = self.bind.is_address();
        let (listeners, unlink) = self.bind.listen(threads.map_or(1, NonZeroUsize::get))?;
        Ok(Bound {
            has_threads: threads.is_some(),
            closes_listeners,
            listeners,
            unlink,
            service: self.service,
            options: Options { connections, ..self.options },
            shutdown: self.shutdown,
        })
    }
}

/// Open files of a connection and its request, 4: for example two sockets, a file of the cache and one of a buffer.
const CONNECTION_FILES: usize = 4;

/// Returns the number of connections for which the process may open enough files.
fn within_open_files(connections: usize) -> usize {
    let limit = raise_open_files(connections.saturating_mul(CONNECTION_FILES));
    let most = (limit / 8 * 3).max(1);
    if connections > most {
        tracing::warn!(
            connections = most,
            "fewer connections than configured: the hard limit of open files is {limit} (raise it, or lower `connections`)"
        );
    }
    connections.min(most)
}

/// A server that listens, and serves when it is awaited.
#[must_use = "a server does nothing until it is awaited"]
pub struct Bound<S> {
    /// Whether each listener gets its own thread. If not, there is one listener.
    has_threads: bool,
    /// Whether the listeners are closed with the server.
    closes_listeners: bool,
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
        let Self {
            has_threads,
            closes_listeners,
            mut listeners,
            unlink,
            service,
            options,
            shutdown,
        } = self;
        let Options { connections, connections_per_client, mut config, .. } = options;
        config.per_client = connections_per_client.map(PerClientConnections::new);
        let config = Arc::new(config);
        let admission = Admission::new(listeners.len(), connections, config.clone());
        let accept_loop = AcceptLoop {
            service,
            config,
            admission: Arc::new(admission),
            shutdown_timeout: options.shutdown_timeout,
            closes_listeners,
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
