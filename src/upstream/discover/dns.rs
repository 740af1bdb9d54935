//! `DnsSource`: the addresses or SRV records of a name.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, rdata::SRV},
};
use tokio::time::sleep;

use super::{Target, Update, steps::Steps};
use crate::{
    error::BoxError,
    net::{Address, clock},
    policy::backoff::Backoff,
};

/// Minimum time between two lookups of a name, whatever its TTL: 1 s.
pub const DNS_MIN_TTL: Duration = Duration::from_secs(1);

/// Maximum time between two lookups of a name, whatever its TTL: 5 min.
pub const DNS_MAX_TTL: Duration = Duration::from_secs(300);

/// Timeout of a query: 2 s. Each name server is queried at most twice; after that the last set remains in use.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses after failures: from 1 s to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

type Item = Result<Update, BoxError>;

/// Follows the addresses of a name (A and AAAA), or the servers of a service (SRV, RFC 2782). They are looked up
/// again after their TTL, which is limited to between [`DNS_MIN_TTL`] and [`DNS_MAX_TTL`].
///
/// The targets are addresses with a port, for HTTP/1.1 without TLS; for another protocol map the updates of the stream.
/// The lowest priority of SRV records is tier 0, the next one tier 1, and so on; a weight of 0 counts as 1. A name
/// without addresses is an error, after which the lookup is repeated after 1 s, and up to 30 s if it continues to fail.
///
/// ```no_run
/// use vestibule::upstream::discover::DnsSource;
///
/// let by_address = DnsSource::hosts("app.internal", 3000)?;
/// let by_service = DnsSource::srv("_http._tcp.app.internal")?;
/// # drop((by_address, by_service));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub struct DnsSource(Steps<Item, Lookup>);

struct Lookup {
    resolver: TokioResolver,
    question: Question,
    /// The time until the next lookup.
    wait: Duration,
    failures: u32,
    last: Option<Vec<Target>>,
}

#[derive(Debug, Clone)]
enum Question {
    Hosts { name: String, port: u16 },
    Srv { name: String },
}

impl DnsSource {
    /// Follows the addresses of `name`, with this port, from the system's name servers.
    ///
    /// # Errors
    /// The system's configuration of name servers cannot be read.
    pub fn hosts(name: impl Into<String>, port: u16) -> io::Result<Self> {
        Self::new(Question::Hosts { name: name.into(), port }, None)
    }

    /// Follows the addresses of `name`, with this port, from this name server.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn hosts_at(server: SocketAddr, name: impl Into<String>, port: u16) -> io::Result<Self> {
        Self::new(Question::Hosts { name: name.into(), port }, Some(server))
    }

    /// Follows the servers of a service, for example `_http._tcp.app.internal`, from the system's name servers.
    ///
    /// # Errors
    /// The system's configuration of name servers cannot be read.
    pub fn srv(name: impl Into<String>) -> io::Result<Self> {
        Self::new(Question::Srv { name: name.into() }, None)
    }

    /// Follows the servers of a service from this name server.
    ///
    /// # Errors
    /// The resolver cannot be set up.
    pub fn srv_at(server: SocketAddr, name: impl Into<String>) -> io::Result<Self> {
        Self::new(Question::Srv { name: name.into() }, Some(server))
    }

    fn new(question: Question, server: Option<SocketAddr>) -> io::Result<Self> {
        let mut builder = match server {
            None => TokioResolver::builder_tokio().map_err(io::Error::other)?,
            Some(server) => {
                TokioResolver::builder_with_config(config(server), TokioRuntimeProvider::default())
            }
        };
        // Lookups are repeated only after the TTL, so the resolver needs no cache.
        let options = builder.options_mut();
        options.cache_size = 0;
        (options.timeout, options.attempts) = (TIMEOUT, 1);
        let resolver = builder.build().map_err(io::Error::other)?;
        let lookup = Lookup { resolver, question, wait: Duration::ZERO, failures: 0, last: None };
        Ok(Self(Steps::new(lookup, |lookup| Box::pin(lookup.next()))))
    }
}

fn config(server: SocketAddr) -> ResolverConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    name_server.connections = connections.into();
    ResolverConfig::from_name_servers(vec![name_server])
}

impl Lookup {
    /// Waits for the next update.
    async fn next(mut self) -> (Option<Item>, Self) {
        loop {
            sleep(self.wait).await;
            match self.ask().await {
                Ok((targets, valid_until)) => {
                    let ttl = valid_until.saturating_duration_since(clock::now());
                    self.wait = ttl.clamp(DNS_MIN_TTL, DNS_MAX_TTL);
                    self.failures = 0;
                    if self.last.as_ref() != Some(&targets) {
                        self.last = Some(targets.clone());
                        return (Some(Ok(Update::Set(targets))), self);
                    }
                }
                Err(error) => {
                    self.failures = self.failures.saturating_add(1);
                    self.wait = RETRY.delay(self.failures);
                    return (Some(Err(error)), self);
                }
            }
        }
    }

    /// Returns the targets in a fixed order, and the time until which they are valid.
    async fn ask(&self) -> Result<(Vec<Target>, Instant), BoxError> {
        match &self.question {
            Question::Hosts { name, port } => self.hosts(name, *port, 1, 0).await,
            Question::Srv { name } => self.services(name).await,
        }
    }

    async fn hosts(
        &self,
        name: &str,
        port: u16,
        weight: u32,
        tier: u8,
    ) -> Result<(Vec<Target>, Instant), BoxError> {
        let answer = self.resolver.lookup_ip(name).await;
        let answer = answer.map_err(|e| format!("cannot resolve {name}: {e}"))?;
        let addresses: BTreeSet<SocketAddr> =
            answer.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        let target =
            |address: SocketAddr| Target { weight, tier, ..Target::new(Address::from(address)) };
        Ok((addresses.into_iter().map(target).collect(), answer.valid_until()))
    }

    async fn services(&self, name: &str) -> Result<(Vec<Target>, Instant), BoxError> {
        let answer = self.resolver.srv_lookup(name).await;
        let answer = answer.map_err(|e| format!("cannot resolve {name}: {e}"))?;
        let mut services: Vec<&SRV> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .collect();
        services.sort_by_key(|srv| (srv.priority, srv.target.to_string(), srv.port));
        let priorities: BTreeSet<u16> = services.iter().map(|srv| srv.priority).collect();
        let (mut targets, mut valid_until) = (Vec::new(), answer.valid_until());
        for srv in services {
            let tier = priorities.range(..srv.priority).count();
            let tier = u8::try_from(tier).unwrap_or(u8::MAX);
            let weight = u32::from(srv.weight).max(1);
            let host = srv.target.to_string();
            let (hosts, until) = self.hosts(&host, srv.port, weight, tier).await?;
            targets.extend(hosts);
            valid_until = valid_until.min(until);
        }
        Ok((targets, valid_until))
    }
}

impl Stream for DnsSource {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}

impl fmt::Debug for DnsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsSource").finish_non_exhaustive()
    }
}
