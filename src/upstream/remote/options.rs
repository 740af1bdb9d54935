//! Options of a [`Remote`].

use std::{sync::Arc, time::Duration};

use super::Remote;
use crate::{net::Address, proto::h1::Limits, upstream::PoolConfig};

/// The default timeout of a response's head, and of a pause in its body, 60 s.
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
            head_bytes: 64 << 10, // upstream servers are trusted more than clients, and may set many cookies
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

    /// Sets the limits on responses. `head_timeout` runs from the end of the request to the end of the response's
    /// head; `body_timeout` is the maximum time without progress in the body, and in sending. Both default to
    /// [`RESPONSE_TIMEOUT`], and the size of the head to 64 KiB.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = Arc::new(limits);
        self
    }

    /// Builds the service.
    pub fn build(self) -> Remote {
        Remote::with_options(self.address, self.options)
    }
}
