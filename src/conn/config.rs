//! `Config`, `Http1Config`: the options of a server's connection, and the reasons for their defaults.

#[cfg_attr(
    not(feature = "h2"),
    allow(dead_code, unreachable_pub, reason = "public, and used, with the feature `h2` only")
)]
mod http2;
#[cfg(feature = "h2")]
mod http2_options;
mod proxy_protocol;
#[cfg(feature = "tls")]
mod tls_options;

use std::{sync::Arc, time::Duration};

#[cfg_attr(
    not(feature = "h2"),
    allow(unreachable_pub, reason = "public with the feature `h2` only")
)]
pub use http2::Http2Config;
pub use proxy_protocol::ProxyProtocol;

use super::{
    access_log::{AccessLog, Entry},
    per_client::PerClientConnections,
};
use crate::{
    Budget,
    net::{Gate, process_budget, tls},
    peer::MinRate,
    proto::h1::Limits,
};

/// The options of a [`Connection`](super::Connection) that apply to every protocol. The defaults are safe for
/// a server on the internet.
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
    pub(crate) write_rate: MinRate,
    pub(crate) access_log: AccessLog,
    pub(crate) http1: Http1Config,
    pub(crate) http2: Option<Http2Config>,
    pub(crate) tls: Option<tls::Server>,
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
    /// Counts the clients that senders of the PROXY protocol name.
    pub(crate) per_client: Option<Arc<PerClientConnections>>,
}

impl Config {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            limits: Arc::default(),
            budget: process_budget(),
            gate: Gate::always_open(),
            ready_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(60),
            write_rate: MinRate::new(240, Duration::from_secs(120)),
            access_log: AccessLog::default(),
            http1: Http1Config::new(),
            http2: DEFAULT_HTTP2,
            tls: None,
            proxy_protocol: None,
            per_client: None,
        }
    }

    /// Sets bounds on the size and slowness of requests. Default: see [`Limits`].
    #[must_use]
    pub fn limits(mut self, limits: impl Into<Arc<Limits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets the memory budget that incomplete heads, and responses that wait for slow clients, share with
    /// other buffers. While it is spent, requests are answered 503. Defaults to [`process_budget`].
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// Sets a gate that is checked before each head is read: while it is closed nothing is read, and
    /// requests wait in the kernel. Defaults to one that is always open.
    ///
    /// A connection of HTTP/2 must be read for its other requests. So the gate is checked before the service's readiness,
    /// [`ready_timeout`](Self::ready_timeout) includes the wait, and the number of waiting requests is bounded by the
    /// streams that the connection has announced.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.gate = gate;
        self
    }

    /// Sets how long a complete head may wait for the service to be ready; then it is answered 503.
    /// Defaults to 30 s: a layer that queues has its own, shorter bound.
    #[must_use]
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Sets how long the service may take to answer a request that is complete, or whose body it does
    /// not read; then the call is dropped, and the request is answered 504. Defaults to 5 min: layers and
    /// workers have their own, shorter bounds, and this one is for a service that has none.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Sets how long a write may make no progress; then the connection is closed. Defaults to 60 s, like
    /// nginx. A byte that the client takes from the kernel's send queue is progress, which is seen within a tenth
    /// of the timeout.
    ///
    /// Over HTTP/2 it applies to each response, too, whose stream is reset: while a write to the socket waits, the
    /// progress of the connection is that of its responses. Otherwise a response waits for the client's flow-control
    /// windows, and only bytes that they admit are progress.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets the minimum rate at which a client that is slower than the server must take a response. Defaults
    /// to 240 bytes a second with a grace of 120 s, so that a client whose receive window opens by single
    /// bytes does not hold a connection.
    #[must_use]
    pub fn write_rate(mut self, rate: MinRate) -> Self {
        self.write_rate = rate;
        self
    }

    /// Sets the function that writes the [access log](super::access_log). Defaults to
    /// [`access_log::trace`](super::access_log::trace), which emits a `tracing` event.
    ///
    /// `write` runs on the thread that serves the client, so it must not block.
    #[must_use]
    pub fn access_log(mut self, write: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        self.access_log = AccessLog::Custom(Arc::new(write));
        self
    }

    /// Disables the access log.
    #[must_use]
    pub fn without_access_log(mut self) -> Self {
        self.access_log = AccessLog::Off;
        self
    }

    /// Sets the options of HTTP/1.1.
    #[must_use]
    pub fn http1(mut self, http1: Http1Config) -> Self {
        self.http1 = http1;
        self
    }
}

#[cfg(feature = "h2")]
const DEFAULT_HTTP2: Option<Http2Config> = Some(Http2Config::new());
#[cfg(not(feature = "h2"))]
const DEFAULT_HTTP2: Option<Http2Config> = None;

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

/// The options of a connection that apply to HTTP/1.1 only.
#[derive(Debug, Clone)]
pub struct Http1Config {
    pub(crate) discard_bytes: u64,
    pub(crate) linger: Duration,
    pub(crate) linger_bytes: u64,
    pub(crate) read_ahead: usize,
    pub(crate) half_close: Duration,
}

impl Http1Config {
    /// Creates the default options.
    pub fn new() -> Self {
        Self {
            discard_bytes: 64 << 10,
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
            read_ahead: 16 << 10,
            half_close: Duration::from_secs(30),
        }
    }

    /// Sets how many bytes of an unread request body are read and discarded so that the connection can be
    /// reused after an early response. Defaults to 64 KiB, which costs less than a new connection.
    /// After an early response to a chunked request, whose length is unknown, the connection is closed.
    #[must_use]
    pub fn discard_bytes(mut self, bytes: u64) -> Self {
        self.discard_bytes = bytes;
        self
    }

    /// Sets how long a connection that is closed early continues to read, so that the response reaches a
    /// client that is still sending. Defaults to 5 s.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Sets how many bytes are read and discarded in that time. Defaults to 1 MiB.
    #[must_use]
    pub fn linger_bytes(mut self, bytes: u64) -> Self {
        self.linger_bytes = bytes;
        self
    }

    /// Sets how many bytes of further requests are buffered while one is answered; the last read, of up to 128 KiB,
    /// may exceed it. Defaults to 16 KiB. The purpose of reading ahead is to detect that the client has
    /// disconnected. With zero, a disconnect is detected only by a write. The same holds for a client that
    /// disconnects after sending more than this, or after a body that the service does not read;
    /// [`Config::answer_timeout`] bounds the time of its request.
    #[must_use]
    pub fn read_ahead(mut self, bytes: usize) -> Self {
        self.read_ahead = bytes;
        self
    }

    /// Sets how long the next piece of a response may take for a client that has closed its sending half
    /// after a complete request; then the connection is closed. Defaults to 30 s, like the request timeout
    /// of a worker.
    ///
    /// `printf 'GET / HTTP/1.0\r\n\r\n' | nc -N host 80` does this, and so do some health checks. The
    /// same FIN comes from a client that has closed its socket, which is the more common case: the two
    /// cannot be distinguished before a write, which a closed socket answers with a reset. So the time is a
    /// trade-off:
    ///
    /// - Within it, half-closed clients are answered, and the work for disconnected clients continues: a
    ///   [`DisconnectLayer`](crate::layer::DisconnectLayer) sees the disconnect when the time is over, or
    ///   when a write fails. A reset, or the end of the stream in the middle of a request, is a disconnect
    ///   at once.
    /// - [`Duration::ZERO`]: the end of the sending half is a disconnect. For slow services whose clients
    ///   often give up.
    /// - [`Duration::MAX`]: only [`Config::answer_timeout`] bounds the wait for a response's head, and
    ///   nothing bounds a stream that sends nothing.
    ///
    /// Each piece of a response, and each pipelined request, restarts the time; it does not run while
    /// output is queued for the client.
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
