//! Options of a [`TcpBalance`].

use std::{collections::HashSet, fmt, io, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tower_layer::Layer;

use super::{CONNECT_TIMEOUT, Counts, Limits, Shared, TcpBalance, target::Template};
use crate::{
    conn::ProxyProtocol,
    net::{Address, KeepAlive},
    policy::{
        health::HealthOptions,
        pick::{Pick, RoundRobin},
    },
    proto::proxy,
    upstream::{BalanceBuilder, EmptySet, EndpointLimits, QueueOptions, RetryLayer},
};

/// Default idle timeout of a forwarded connection: 10 min, as in nginx.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Default total connect timeout of a connection: 30 s, which is enough for six servers that do not answer.
pub const TCP_TOTAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Default maximum number of forwarded connections: 4,096. Each uses two descriptors, and up to four more for pipes
/// while bytes wait for a slow reader, or buffers if the process can open no more files.
pub const MAX_CONNECTIONS: usize = 4096;

/// How long a trusted sender may take for its PROXY header: 5 s. It sends it before all else.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds a [`TcpBalance`]. The order of options does not matter.
#[must_use]
pub struct TcpBalanceBuilder {
    addresses: io::Result<Vec<Address>>,
    policy: Arc<dyn Pick>,
    balance: BalanceBuilder,
    may_be_empty: bool,
    template: Template,
    limits: Limits,
    max_connections: usize,
    attempts: Option<usize>,
    total_connect_timeout: Duration,
    proxy_protocol: Option<proxy::Version>,
    senders: Option<ProxyProtocol>,
}

impl TcpBalanceBuilder {
    pub(super) fn new<A: AsRef<str>>(servers: impl IntoIterator<Item = A>) -> Self {
        Self {
            addresses: servers.into_iter().map(|server| server.as_ref().parse()).collect(),
            policy: Arc::new(RoundRobin::new()),
            balance: BalanceBuilder::new(),
            may_be_empty: false,
            template: Template {
                connect_timeout: CONNECT_TIMEOUT,
                keep_alive: KeepAlive::new(),
                limits: EndpointLimits::new(),
            },
            limits: Limits { idle_timeout: TCP_IDLE_TIMEOUT, total_timeout: None },
            max_connections: MAX_CONNECTIONS,
            attempts: None,
            total_connect_timeout: TCP_TOTAL_CONNECT_TIMEOUT,
            proxy_protocol: None,
            senders: None,
        }
    }

    /// Sets the policy that picks the server of a connection. Default: [`RoundRobin`].
    pub fn policy(mut self, policy: impl Pick + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Sets when servers are ejected, and how they come back.
    pub fn health(mut self, options: HealthOptions) -> Self {
        self.balance = self.balance.health(options);
        self
    }

    /// Sets the limits of each server: connections at the same time, and connections that are being made. Default: no
    /// limit.
    pub fn server_limits(mut self, limits: EndpointLimits) -> Self {
        self.template.limits = limits;
        self
    }

    /// Sets the queue for connections while all servers are at their limits. The
    /// [total connect timeout](Self::total_connect_timeout) bounds its timeout. Default: no queue.
    pub fn queue(mut self, options: QueueOptions) -> Self {
        self.balance = self.balance.queue(options);
        self
    }

    /// Allows a balancer without an initial server, for one that [follows](TcpBalance::follow) a source, and sets how
    /// connections are handled while there is none. By default at least one server is required.
    pub fn empty(mut self, empty: EmptySet) -> Self {
        self.balance = self.balance.empty(empty);
        self.may_be_empty = true;
        self
    }

    /// Sets the timeout of connecting, for each server. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.template.connect_timeout = timeout;
        self
    }

    /// Sets the options of TCP keep-alive to the servers. Default: [`KeepAlive::new`], by which a connection to a server
    /// whose host has vanished fails after 30 s. If that server has not acknowledged sent data, TCP sends no probes: the
    /// [`idle_timeout`](Self::idle_timeout) ends the connection, or a shorter [`KeepAlive::user_timeout`].
    pub fn keep_alive(mut self, options: KeepAlive) -> Self {
        self.template.keep_alive = options;
        self
    }

    /// Sets how long a connection may be without a server: the time in the [queue](Self::queue) and of connecting to all
    /// servers that are tried. Then it is reset. [`Duration::MAX`] removes the bound. Default:
    /// [`TCP_TOTAL_CONNECT_TIMEOUT`].
    pub fn total_connect_timeout(mut self, timeout: Duration) -> Self {
        self.total_connect_timeout = timeout;
        self
    }

    /// Sets the maximum number of servers that are tried for a connection, at least 1. Default: each server once. The
    /// [total connect timeout](Self::total_connect_timeout) and the default
    /// [`RetryBudget`](crate::policy::retry_budget::RetryBudget), which all connections share, may end it earlier.
    pub fn attempts(mut self, n: usize) -> Self {
        self.attempts = Some(n);
        self
    }

    /// Sets the time without traffic after which a connection is closed. Default: [`TCP_IDLE_TIMEOUT`].
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Sets the maximum duration of a connection that has a server. Default: unlimited.
    pub fn total_timeout(mut self, timeout: Duration) -> Self {
        self.limits.total_timeout = Some(timeout);
        self
    }

    /// Sets the maximum number of forwarded connections, at least 1; others are closed. Default: [`MAX_CONNECTIONS`].
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = n.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Sends the client's address to the servers by the PROXY protocol, which they must expect. Off by default.
    pub fn proxy_protocol(mut self, version: proxy::Version) -> Self {
        self.proxy_protocol = Some(version);
        self
    }

    /// Reads a PROXY header in front of each connection from these senders, within [`PROXY_HEADER_TIMEOUT`]: its
    /// client is that of policies and of the header that is [sent](Self::proxy_protocol). A connection from any other
    /// address is forwarded as it is, since many protocols begin with the server. Default: none is read.
    pub fn read_proxy_protocol(mut self, senders: ProxyProtocol) -> Self {
        self.senders = Some(senders);
        self
    }

    /// Builds the balancer.
    ///
    /// # Errors
    /// The first address that could not be parsed, no address, or one that was added twice.
    pub fn build(self) -> io::Result<TcpBalance> {
        let addresses = self.addresses?;
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if addresses.is_empty() && !self.may_be_empty {
            return invalid("the balancer has no server: add one, or call `empty`".to_owned());
        }
        let mut keys = HashSet::new();
        if let Some(twice) = addresses.iter().find(|address| !keys.insert(address.to_string())) {
            return invalid(format!("the server {twice} was added twice"));
        }
        let endpoints = addresses
            .into_iter()
            .map(|address| self.template.endpoint(address.to_string(), address));
        let balance = self.balance.build(endpoints, self.policy);
        // The balancer sends a connection to each server once.
        let retry = RetryLayer::new()
            .attempts(self.attempts.unwrap_or(usize::MAX))
            .total_timeout(self.total_connect_timeout);
        Ok(TcpBalance(Arc::new(Shared {
            targets: retry.layer(balance),
            template: self.template,
            limits: self.limits,
            proxy_protocol: self.proxy_protocol,
            senders: self.senders,
            permits: Arc::new(Semaphore::new(self.max_connections)),
            max_connections: self.max_connections,
            counts: Counts::default(),
        })))
    }
}

impl fmt::Debug for TcpBalanceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpBalanceBuilder")
            .field("addresses", &self.addresses)
            .field("balance", &self.balance)
            .field("may_be_empty", &self.may_be_empty)
            .field("template", &self.template)
            .field("limits", &self.limits)
            .field("max_connections", &self.max_connections)
            .field("attempts", &self.attempts)
            .field("total_connect_timeout", &self.total_connect_timeout)
            .field("proxy_protocol", &self.proxy_protocol)
            .field("senders", &self.senders)
            .finish_non_exhaustive()
    }
}
