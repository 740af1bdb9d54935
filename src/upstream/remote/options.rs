//! Options of a [`Remote`].

use std::{sync::Arc, time::Duration};

use super::Remote;
use crate::{net::Address, proto::h1::Limits};

/// Idle connections to one server that a runtime keeps, unless set otherwise: as many as it has in use
/// under heavy load. Fewer would be closed and made again all the time; what is more than the load
/// needs is closed after [`IDLE_TIMEOUT`].
pub const KEEP_IDLE: usize = 512;

/// How long a connection may be idle, unless set otherwise: less than servers' own limits (nginx:
/// 75 s), so that a request seldom meets a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting may take, unless set otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to answer, and pause in its answer, unless set otherwise.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(in crate::upstream) struct Options {
    pub(in crate::upstream) keep_idle: usize,
    pub(in crate::upstream) idle_timeout: Duration,
    pub(in crate::upstream) connect_timeout: Duration,
    pub(in crate::upstream) limits: Arc<Limits>,
}

impl Default for Options {
    fn default() -> Self {
        let limits = Limits {
            head_timeout: RESPONSE_TIMEOUT,
            body_timeout: RESPONSE_TIMEOUT,
            head_bytes: 64 << 10, // the servers are ours: cookies they set may be many
            ..Limits::default()
        };
        Self {
            keep_idle: KEEP_IDLE,
            idle_timeout: IDLE_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            limits: Arc::new(limits),
        }
    }
}

/// Builds a [`Remote`]. The order of options does not matter.
#[derive(Debug)]
#[must_use]
pub struct RemoteBuilder {
    address: Address,
    options: Options,
}

impl RemoteBuilder {
    pub(super) fn new(address: Address) -> Self {
        Self { address, options: Options::default() }
    }

    /// At most `n` idle connections, for each runtime. Default [`KEEP_IDLE`].
    pub fn keep_idle(mut self, n: usize) -> Self {
        self.options.keep_idle = n;
        self
    }

    /// How long a connection may be idle before it is closed. Default [`IDLE_TIMEOUT`].
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = timeout;
        self
    }

    /// How long connecting may take. Default [`CONNECT_TIMEOUT`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout;
        self
    }

    /// Bounds on what the server may send, and how slowly: `head_timeout` is the time from the end of
    /// the request to the response's head, `body_timeout` bounds each pause in its body and in sending.
    /// Default [`RESPONSE_TIMEOUT`] for both, and 64 KiB of head.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = Arc::new(limits);
        self
    }

    /// The service.
    pub fn build(self) -> Remote {
        Remote::with_options(self.address, self.options)
    }
}
