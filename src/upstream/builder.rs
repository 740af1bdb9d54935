//! Options of an [`Upstream`].

use std::{collections::HashSet, fmt, io, sync::Arc};

use tower_layer::Layer;

use super::{
    BalanceBuilder, EmptySet, Endpoint, EndpointLimits, ForwardLayer, HostPolicy, PoolConfig,
    QueueOptions, Remote, RetryLayer, TunnelOptions, Upstream,
    forward::Options as ForwardOptions,
    remote::RemoteOptions,
    server_address::{Scheme, ServerAddress},
};
use crate::{
    Budget,
    policy::{
        health::HealthOptions,
        pick::{Pick, RoundRobin},
    },
    proto::h1::Limits,
    semantics::{forwarded::ForwardedFields, rewrite::Rewrite, via::Via},
};

/// The common options of a proxy's servers.
#[derive(Debug, Clone)]
pub(super) struct Template {
    remote: RemoteOptions,
    limits: EndpointLimits,
}

impl Template {
    /// Adds the default TLS client, unless there is one. If it cannot be made, requests to servers at `https://` fail
    /// with the reason.
    pub(super) fn secured(mut self) -> Self {
        let _ = self.remote.prepare(Scheme::Https);
        self
    }

    pub(super) fn endpoint(&self, address: &ServerAddress) -> Endpoint<Remote> {
        let remote = Remote::with_options(address, &self.remote);
        Endpoint::from(remote).limits(self.limits)
    }
}

/// Builds an [`Upstream`]. The order of options does not matter.
///
/// All servers have the same weight initially. [`Balance::set_weight`](super::Balance::set_weight) and
/// [`Upstream::follow`] change it.
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
    balance: BalanceBuilder,
    limits: EndpointLimits,
    may_be_empty: bool,
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
            balance: BalanceBuilder::new(),
            limits: EndpointLimits::new(),
            may_be_empty: false,
            attempts: None,
            retry: None,
            forward: ForwardOptions::default(),
            rewrite: None,
            remote: RemoteOptions::default(),
        }
    }

    /// Adds a server at a [`ServerAddress`]: `host:port`, `http://host`, `https://host`, `h2://host:port` or
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

    /// Sets when servers are ejected, and how they come back.
    pub fn health(mut self, options: HealthOptions) -> Self {
        self.balance = self.balance.health(options);
        self
    }

    /// Sets the limits of concurrent requests for each server. Defaults to no limit.
    pub fn server_limits(mut self, limits: EndpointLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the queue for requests while all servers are at their limits. Defaults to no queue.
    pub fn queue(mut self, options: QueueOptions) -> Self {
        self.balance = self.balance.queue(options);
        self
    }

    /// Allows a proxy without an initial server, for one that [follows](Upstream::follow) a source, and sets how
    /// requests are handled while there is none. By default at least one server is required.
    pub fn empty(mut self, empty: EmptySet) -> Self {
        self.balance = self.balance.empty(empty);
        self.may_be_empty = true;
        self
    }

    /// Sets the maximum number of attempts per request, at least 1. Default: no maximum, since each server is tried once, and one of
    /// which only an idle connection was found closed is tried once more. That holds for followed servers, too.
    pub fn attempts(mut self, n: usize) -> Self {
        self.attempts = Some(n);
        self
    }

    /// Sets the fields that describe the client. Defaults to `X-Forwarded-For`, `-Proto` and `-Host`. Such fields
    /// from the client are removed.
    pub fn forward(mut self, fields: ForwardedFields) -> Self {
        self.forward.fields = fields;
        self
    }

    /// Adds `Via`, see [`ForwardLayer::via`]. Off by default.
    pub fn via(mut self, via: Via) -> Self {
        self.forward.via = Some(via);
        self
    }

    /// Sets the `Host` of requests to the servers, see [`ForwardLayer::host`]. Defaults to the client's.
    pub fn host(mut self, policy: HostPolicy) -> Self {
        self.forward.host = policy;
        self
    }

    /// Rewrites paths, redirects and cookies, see [`ForwardLayer::rewrite`]. The addresses of the
    /// configured servers count as [names](Rewrite::server) of each; of a followed one, its own address in its responses. Off
    /// by default.
    pub fn rewrite(mut self, rewrite: Rewrite) -> Self {
        self.rewrite = Some(rewrite);
        self
    }

    /// Forwards `Expect: 100-continue`, see [`ForwardLayer::forward_expect`]. Off by default.
    pub fn forward_expect(mut self, on: bool) -> Self {
        self.forward.forwards_expect = on;
        self
    }

    /// Sets the protocols to which connections may switch, and the bounds of tunnels. Default: WebSocket,
    /// [`TunnelOptions::new`].
    pub fn tunnels(mut self, options: TunnelOptions) -> Self {
        self.forward.tunnels = options;
        self
    }

    /// Sets the options of retries: budget, delays and timeouts. Its number of [`attempts`](RetryLayer::attempts) is
    /// used too, unless [`attempts`](Self::attempts) is set. Default: [`RetryLayer::new`].
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

    /// Sets the budget in which data counts that was received over HTTP/2 and is not read: at most 256 KiB of a response.
    /// Default: [`net::process_budget`](crate::net::process_budget).
    pub fn budget(mut self, budget: Budget) -> Self {
        self.remote.budget = budget;
        self
    }

    /// Builds the proxy.
    ///
    /// # Errors
    /// The first address that could not be parsed or whose scheme this build does not support, or no address. For
    /// `https://`, the system has no root certificates.
    pub fn build(self) -> io::Result<Upstream> {
        let addresses = self.addresses?;
        if addresses.is_empty() && !self.may_be_empty {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the proxy has no server: add one, or call `empty`",
            ));
        }
        let mut remote = self.remote;
        for address in &addresses {
            remote.prepare(address.scheme())?;
        }
        let retry = match (self.retry, self.attempts) {
            (Some(retry), None) => retry,
            // The balancer sends a request to each server once, so the current set is the bound.
            (retry, attempts) => retry.unwrap_or_default().attempts(attempts.unwrap_or(usize::MAX)),
        };
        let mut forward = self.forward;
        forward.rewrite = self.rewrite.map(|rewrite| {
            let names = addresses.iter().map(ToString::to_string);
            Arc::new(names.fold(rewrite, |rewrite, name| rewrite.server(&name)))
        });
        let mut keys = HashSet::new();
        if let Some(twice) = addresses.iter().find(|address| !keys.insert(*address)) {
            let why = format!("the server {twice} was added twice");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let template = Template { remote, limits: self.limits };
        let endpoints = addresses.iter().map(|address| template.endpoint(address));
        let balance = self.balance.build(endpoints, self.policy);
        let service = ForwardLayer { options: forward }.layer(retry.layer(balance));
        Ok(Upstream(service, Arc::new(template)))
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
            .field("balance", &self.balance)
            .field("limits", &self.limits)
            .field("may_be_empty", &self.may_be_empty)
            .field("attempts", &self.attempts)
            .field("retry", &self.retry)
            .field("forward", &self.forward)
            .field("rewrite", &self.rewrite)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}
