//! Options of a [`Remote`].

use std::{io, sync::Arc, time::Duration};

use super::Remote;
use crate::{
    Budget,
    net::{process_budget, tls},
    proto::h1::Limits,
    upstream::{
        PoolConfig,
        server_address::{Scheme, ServerAddress},
    },
};

/// Default timeout of a response's head, and of a pause in its body: 60 s.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(in crate::upstream) struct Options {
    pub(in crate::upstream) pool: PoolConfig,
    pub(in crate::upstream) limits: Arc<Limits>,
    /// The budget of data that was received over HTTP/2 and is not read.
    pub(in crate::upstream) budget: Budget,
    /// The verification of certificates.
    pub(in crate::upstream) tls: Option<tls::Client>,
}

impl Default for Options {
    fn default() -> Self {
        let limits = Limits {
            head_timeout: RESPONSE_TIMEOUT,
            body_timeout: RESPONSE_TIMEOUT,
            head_bytes: 64 << 10, // upstream servers are trusted more than clients, and may set many cookies
            ..Limits::default()
        };
        let (pool, limits, budget) = (PoolConfig::new(), Arc::new(limits), process_budget());
        Self { pool, limits, budget, tls: None }
    }
}

impl Options {
    /// Checks that this build supports `scheme`, and sets the defaults that it needs.
    pub(in crate::upstream) fn prepare(&mut self, scheme: Scheme) -> io::Result<()> {
        is_supported(scheme)?;
        if scheme == Scheme::Https && self.tls.is_none() {
            self.tls = Some(default_tls()?);
        }
        Ok(())
    }

    pub(in crate::upstream) fn tls_client(&self) -> io::Result<&tls::Client> {
        let why = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "https:// needs a TLS client: none is configured",
            )
        };
        self.tls.as_ref().ok_or_else(why)
    }
}

#[cfg(feature = "tls")]
fn default_tls() -> io::Result<tls::Client> {
    tls::Client::new()
}

#[cfg(not(feature = "tls"))]
fn default_tls() -> io::Result<tls::Client> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Checks that this build supports `scheme`.
pub(in crate::upstream) fn is_supported(scheme: Scheme) -> io::Result<()> {
    let why = match scheme {
        Scheme::Http2 if !cfg!(feature = "h2") => "h2:// needs the feature `h2`",
        Scheme::Https if !cfg!(feature = "tls") => "https:// needs the feature `tls`",
        Scheme::Http | Scheme::Http2 | Scheme::Https => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Builds a [`Remote`]. The order of options does not matter.
#[derive(Debug)]
#[must_use]
pub struct RemoteBuilder {
    pub(in crate::upstream) address: ServerAddress,
    pub(in crate::upstream) options: Options,
}

impl RemoteBuilder {
    pub(super) fn new(address: ServerAddress) -> Self {
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

    /// Sets the budget in which data counts that was received over HTTP/2 and is not read: at most 256 KiB of a response.
    /// Default: [`net::process_budget`](crate::net::process_budget).
    pub fn budget(mut self, budget: Budget) -> Self {
        self.options.budget = budget;
        self
    }

    /// Builds the service.
    ///
    /// If this build does not support the scheme of the address, or if a server at `https://` has no
    /// [`tls`](Self::tls) and the system has no root certificates, the requests fail with the reason.
    pub fn build(mut self) -> Remote {
        // `Remote::new` and `UpstreamBuilder::build` return this error.
        let _ = self.options.prepare(self.address.scheme());
        Remote::with_options(&self.address, &self.options)
    }
}
