//! The options of a server's connection, each with its reason.

use std::{sync::Arc, time::Duration};

use super::access_log::{AccessLog, Entry};
use crate::{
    Budget,
    net::{Gate, process_budget},
    peer::Rate,
    proto::h1::Limits,
};

/// Options of a [`Connection`](super::Connection) that every protocol has; the defaults are safe to
/// face the internet with.
///
/// ```
/// use std::time::Duration;
/// use vestibule::conn::{Config, Http1Config};
///
/// let config = Config::new()
///     .answer_timeout(Duration::from_secs(60))
///     .http1(Http1Config::new().half_close(Duration::from_secs(5)));
/// # drop(config);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) limits: Arc<Limits>,
    pub(crate) budget: Budget,
    pub(crate) gate: Gate,
    pub(crate) ready_timeout: Duration,
    pub(crate) answer_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) write_rate: Rate,
    pub(crate) access_log: AccessLog,
    pub(crate) http1: Http1Config,
}

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            limits: Arc::default(),
            budget: process_budget(),
            gate: Gate::always_open(),
            ready_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(60),
            write_rate: Rate::new(240, Duration::from_secs(120)),
            access_log: AccessLog::default(),
            http1: Http1Config::new(),
        }
    }

    /// Bounds on what a client may send, and how slowly. Default: see [`Limits`].
    #[must_use]
    pub fn limits(mut self, limits: impl Into<Arc<Limits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// The memory that incomplete heads, and responses that wait for slow clients, share with other
    /// buffers. When it is spent, requests are answered 503. Default: [`process_budget`].
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// A gate that is checked before each head is read: while it is closed nothing is read, and
    /// clients wait in the kernel. Default: always open.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// How long a complete head may wait for the service to be ready; then it is answered 503.
    /// Default 30 s: a layer that queues has its own, shorter bound.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// How long the service may take to answer a request that is complete, or whose body it does
    /// not read; then it is dropped, and 504 is answered. Default 5 min: layers and workers have
    /// their own, shorter bounds, and this one is for a service that has none.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// How long a write may make no progress. Default 60 s, as nginx: a client that takes no byte
    /// in that time, nor any that the kernel holds for it, does not read any more.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// How fast a client must take a response once it is slower than the server. Default 240 bytes
    /// a second with a grace of 120 s: a window that opens by a byte now and then is no progress.
    #[must_use]
    pub fn write_rate(mut self, rate: Rate) -> Self {
        self.write_rate = rate;
        self
    }

    /// Where the [access log](super::access_log) is written. Default:
    /// [`access_log::trace`](super::access_log::trace), which is an event of `tracing`.
    ///
    /// `write` runs on the thread that serves the client, so it must not block.
    #[must_use]
    pub fn access_log(mut self, write: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        self.access_log = AccessLog::Custom(Arc::new(write));
        self
    }

    /// Writes no access log.
    #[must_use]
    pub fn without_access_log(mut self) -> Self {
        self.access_log = AccessLog::Off;
        self
    }

    /// The options of HTTP/1.1 alone.
    #[must_use]
    pub fn http1(mut self, http1: Http1Config) -> Self {
        self.http1 = http1;
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// Options of an HTTP/1.1 connection that no other protocol has.
#[derive(Debug, Clone)]
pub struct Http1Config {
    pub(crate) discard_bytes: u64,
    pub(crate) linger: Duration,
    pub(crate) linger_bytes: u64,
    pub(crate) read_ahead: usize,
    pub(crate) half_close: Duration,
}

impl Http1Config {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            discard_bytes: 64 << 10,
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
            read_ahead: 16 << 10,
            half_close: Duration::from_secs(30),
        }
    }

    /// Bytes of an unread request body that are read and dropped so that the connection can be
    /// kept after an early response. Default 64 KiB: less than a new connection costs.
    #[must_use]
    pub fn discard_bytes(mut self, bytes: u64) -> Self {
        self.discard_bytes = bytes;
        self
    }

    /// How long a connection that is closed early goes on reading, so that the response reaches a
    /// client that is still sending. Default 5 s.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Bytes that are read and dropped in that time. Default 1 MiB.
    #[must_use]
    pub fn linger_bytes(mut self, bytes: u64) -> Self {
        self.linger_bytes = bytes;
        self
    }

    /// How many bytes of the next requests are buffered while one is answered; the last read may
    /// exceed it. Default 16 KiB: they are read only to notice that the client has left, and are kept
    /// until their turn comes. Zero reads none, and then a client that leaves is noticed only when it is
    /// written to; so is one that leaves behind more than this, or behind a body that the service
    /// does not read. [`Config::answer_timeout`] bounds what it can hold.
    #[must_use]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// How long a client that has ended its sending half behind a whole request is waited with for the
    /// next piece of its response. Default 30 s, as long as a worker has for a request by default.
    ///
    /// `printf 'GET / HTTP/1.0\r\n\r\n' | nc -N host 80` does this, and so do some health checks. The
    /// same FIN comes from a client that has closed its socket, which is the more usual case: the two
    /// cannot be told apart before something is written, which makes a closed socket reset the
    /// connection. So the time is a trade-off:
    ///
    /// - Within it, half-closed clients are answered, and the work for clients that have left goes on:
    ///   a [`DisconnectLayer`](crate::layer::DisconnectLayer) sees them leave when the time is over, or
    ///   when a write fails. A reset, or the end of the connection in the middle of a request, counts
    ///   as leaving at once.
    /// - [`Duration::ZERO`]: each client that ends its sending half has left at once. For slow services
    ///   whose clients often give up.
    /// - [`Duration::MAX`]: only [`Config::answer_timeout`] bounds the wait for a response's head, and
    ///   nothing bounds a stream that sends nothing.
    ///
    /// Each piece of a response, and each request that was sent ahead, begins the time anew; it does not
    /// run while the client is sent something.
    #[must_use]
    pub fn half_close(mut self, time: Duration) -> Self {
        self.half_close = time;
        self
    }
}

impl Default for Http1Config {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_has_the_budget_of_the_process_by_default() {
        assert!(Config::new().budget.is_same(&process_budget()));
    }
}
