//! Options of an [`Upstream`].

use std::{fmt, io, sync::Arc};

use tower_layer::Layer;

use super::{
    Balance, Endpoint, ForwardLayer, HostPolicy, PoolConfig, Remote, RetryLayer, Upstream,
    forward::Options as ForwardOptions, remote::RemoteOptions, server_address::ServerAddress,
};
use crate::{
    policy::pick::{Pick, RoundRobin},
    proto::h1::Limits,
    semantics::{forwarded::ForwardedFields, rewrite::Rewrite, via::Via},
};

/// Builds an [`Upstream`]. The order of options does not matter.
///
/// All servers get the same share of the requests. For [weights](Endpoint::weight), build the proxy from its parts as
/// in the example of [`Retry`](super::Retry).
///
/// ```
/// use std::time::Duration;
/// use vestibule::{policy::pick::LeastOutstanding, upstream::{PoolConfig, Upstream}};
///
/// let api = Upstream::builder(["10.0.0.1:3000", "10.0.0.2:3000"])
///     .policy(LeastOutstanding::new())
///     .pool(PoolConfig::new().connect_timeout(Duration::from_secs(1)))
///     .build()?;
/// # drop(api);
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub struct UpstreamBuilder {
    addresses: io::Result<Vec<ServerAddress>>,
    policy: Arc<dyn Pick>,
    attempts: Option<usize>,
    retry: Option<RetryLayer>,
    forward: ForwardOptions,
    rewrite: Option<Rewrite>,
    pub(super) remote: RemoteOptions,
}

impl UpstreamBuilder {
    /// Creates a builder without servers.
    pub fn new() -> Self {
        Self {
            addresses: Ok(Vec::new()),
            policy: Arc::new(RoundRobin::new()),
            attempts: None,
            retry: None,
            forward: ForwardOptions::default(),
            rewrite: None,
            remote: RemoteOptions::default(),
        }
    }

    /// Adds a server at a [`ServerAddress`]: `host:port`, `http://host:port`, `https://host`, `h2://host:port` or
    /// `unix:/path`.
    pub fn server(mut self, server: impl AsRef<str>) -> Self {
        match server.as_ref().parse() {
            Ok(address) => self.push(address),
            Err(e) => {
                // `build` returns the first error.
                self.addresses = self.addresses.and(Err(e));
                self
            }
        }
    }

    /// Adds the server at this address.
    pub fn address(self, address: impl Into<ServerAddress>) -> Self {
        self.push(address.into())
    }

    fn push(mut self, address: ServerAddress) -> Self {
        if let Ok(addresses) = &mut self.addresses {
            addresses.push(address);
        }
        self
    }

    /// Sets the policy that picks the server of a request. Defaults to [`RoundRobin`].
    pub fn policy(mut self, policy: impl Pick + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets the maximum number of times that a request is sent. Defaults to the number of servers plus one.
    pub fn attempts(mut self, n: usize) -> Self {
        self.attempts = Some(n);
        self
    }

    /// Sets the fields that name the client. Defaults to `X-Forwarded-For`, `-Proto` and `-Host`; such fields of the
    /// client are removed.
    pub fn forward(mut self, fields: ForwardedFields) -> Self {
        self.forward.fields = fields;
        self
    }

    /// Adds `Via`, see [`ForwardLayer::via`]. Off by default.
    pub fn via(mut self, via: Via) -> Self {
        self.forward.via = Some(via);
        self
    }

    /// Which `Host` the servers are sent, see [`ForwardLayer::host`]. Default: the client's.
    pub fn host(mut self, policy: HostPolicy) -> Self {
        self.forward.host = policy;
        self
    }

    /// Rewrites paths, redirects and cookies, see [`ForwardLayer::rewrite`]. The addresses of the servers
    /// count as their [names](Rewrite::server). Off by default.
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.rewrite = Some(rewrite);
        self
    }

    /// Forwards `Expect: 100-continue`, see [`ForwardLayer::forward_expect`]. Off by default.
    pub fn forward_expect(mut self, on: bool) -> Self {
        self.forward.forwards_expect = on;
        self
    }

    /// Sets the options of retries: their budget, delays and timeouts. Its number of
    /// [`attempts`](RetryLayer::attempts) is used, too, unless [`attempts`](Self::attempts) is set. Default:
    /// [`RetryLayer::new`].
    pub fn retry(mut self, retry: RetryLayer) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Forwards TRACE, see [`ForwardLayer::forward_trace`]. Off by default.
    pub fn forward_trace(mut self, on: bool) -> Self {
        self.forward.forwards_trace = on;
        self
    }

    /// Sets the options of the connections to each server. Default: [`PoolConfig::new`].
    pub fn pool(mut self, pool: PoolConfig) -> Self {
        self.remote.pool = pool;
        self
    }

    /// Sets the limits on responses. `head_timeout` runs from the end of the request to the end of the response's
    /// head; `body_timeout` is the maximum time without progress in the body, and in sending. Both default to
    /// [`RESPONSE_TIMEOUT`](super::RESPONSE_TIMEOUT), and the size of the head to 64 KiB.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.remote.limits = Arc::new(limits);
        self
    }

    /// Builds the proxy.
    ///
    /// # Errors
    /// The first address that could not be parsed, or whose scheme this build does not speak; no address. For
    /// `https://`, the system has no root certificates.
    pub fn build(self) -> io::Result<Upstream> {
        let addresses = self.addresses?;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no server to send to"));
        }
        let mut remote = self.remote;
        for address in &addresses {
            remote.prepare(address.scheme())?;
        }
        let retry = match (self.retry, self.attempts) {
            (Some(retry), None) => retry,
            (retry, attempts) => {
                retry.unwrap_or_default().attempts(attempts.unwrap_or(addresses.len() + 1))
            }
        };
        let mut forward = self.forward;
        forward.rewrite = self.rewrite.map(|rewrite| {
            let names = addresses.iter().map(ToString::to_string);
            Arc::new(names.fold(rewrite, |rewrite, name| rewrite.server(&name)))
        });
        let endpoints = addresses
            .into_iter()
            .map(|address| Endpoint::from(Remote::with_options(&address, &remote)));
        let balance = Balance::new(endpoints, self.policy);
        Ok(Upstream(ForwardLayer { options: forward }.layer(retry.layer(balance))))
    }
}

impl Default for UpstreamBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for UpstreamBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBuilder")
            .field("addresses", &self.addresses)
            .field("attempts", &self.attempts)
            .field("forward", &self.forward)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}
