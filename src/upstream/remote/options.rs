//! Options of a [`Remote`].

use std::{sync::Arc, time::Duration};

use super::Remote;
use crate::{net::Address, proto::h1::Limits, upstream::PoolConfig};

/// How long a server may take to answer, and pause in its answer, unless set otherwise.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(in crate::upstream) struct Options {
    pub(in crate::upstream) pool: PoolConfig,
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
        Self { pool: PoolConfig::new(), limits: Arc::new(limits) }
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

    /// Sets the options of the connections. Default: [`PoolConfig::new`].
    pub fn pool(mut self, pool: PoolConfig) -> Self {
        self.options.pool = pool;
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
