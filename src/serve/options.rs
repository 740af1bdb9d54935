//! The options of a server.

use std::{future::Future, io, num::NonZeroUsize, sync::Arc, time::Duration};

use super::Serve;
use crate::{
    Budget,
    conn::{Config, Http1Config, access_log::Entry},
    net::{Drain, Gate},
    peer::MinRate,
    proto::h1::Limits,
};

#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) runtimes: Runtimes,
    pub(super) connections: usize,
    pub(super) connections_per_client: Option<usize>,
    pub(super) shutdown_timeout: Duration,
    pub(super) others: Vec<Drain>,
    pub(super) config: Config,
}

/// The runtimes in which connections run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Runtimes {
    Caller,
    Threads(usize),
    PerCore,
}

impl Runtimes {
    /// Returns the number of threads to start; `None` for the caller's runtime.
    pub(super) fn count(self) -> io::Result<Option<NonZeroUsize>> {
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

pub(super) fn invalid(what: &'static str) -> io::Error {
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
    /// connections are closed to admit them. Defaults to [`CONNECTIONS`](super::CONNECTIONS), and is at most three eighths
    /// of the limit of open files, see [`bind`](Self::bind). Zero is an error of `bind`.
    pub fn connections(mut self, n: usize) -> Self {
        self.options.connections = n;
        self
    }

    /// Sets the maximum number of connections that one client may have open: one IPv4 address, or one IPv6
    /// network of 64 bits. Further ones are closed at once, without a response. There is no limit by
    /// default: behind a proxy, all connections come from the proxy's address, unless it tells that of its
    /// client by the [PROXY protocol](Self::proxy_protocol). Zero is an error of [`bind`](Self::bind).
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

    /// Begins a graceful shutdown when `signal` completes: the listener and idle connections are closed, active exchanges
    /// are finished. Then the server's future ends.
    ///
    /// Clients that the kernel has connected by then are still served, even if the [gate](Self::gate) is closed, unless
    /// [`connections`](Self::connections) does not admit them within a second. If a listener was passed to
    /// [`serve()`](super::serve()), they stay in its accept queue, for another process that has it.
    ///
    /// By default a server ends only with its future: the library handles no signals, unless
    /// [`shutdown_signal()`](super::shutdown_signal) is passed here.
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
    /// [`SHUTDOWN_TIMEOUT`](super::SHUTDOWN_TIMEOUT).
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

    pub(super) fn with(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.options.config = change(self.options.config);
        self
    }
}
