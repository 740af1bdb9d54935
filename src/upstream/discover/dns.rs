//! `DnsSource`: the addresses or SRV records of a name.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_core::Stream;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType, rdata::SRV},
    },
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

/// Maximum time until the next lookup, while a server of a service has no address, or the lookup of one type of addresses
/// fails: 30 s.
const RETRY_TTL: Duration = Duration::from_secs(30);

/// Pauses after failures: from 1 s to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

type Item = Result<Update, BoxError>;

/// Follows the addresses of a name (A and AAAA), or the servers of a service (SRV, RFC 2782). They are looked up
/// again after their TTL, which is limited to between [`DNS_MIN_TTL`] and [`DNS_MAX_TTL`].
///
/// The targets are addresses with a port, for HTTP/1.1 without TLS; for another protocol map the updates of the stream.
/// The lowest priority of SRV records is tier 0, the next one tier 1, and so on; a weight of 0 counts as 1.
///
/// A name without addresses is an error, after which the lookup is repeated after 1 s, and up to 30 s if it continues to
/// fail. If name servers answer that some, but not all, servers of a service have no address, neither A nor AAAA, these are
/// left out with a warning. Any other failure for one of them is an error. If the lookup of only one type of addresses fails
/// for another reason, the last addresses of that type remain.
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
    /// The servers without an address, of which a warning was logged.
    missing: Vec<String>,
    /// The addresses of each name in the last answer.
    known: HashMap<String, BTreeSet<IpAddr>>,
}

/// The result of a lookup.
struct Answer {
    /// In a fixed order.
    targets: Vec<Target>,
    valid_until: Instant,
    /// Servers of the service without an address.
    missing: Vec<String>,
    addresses: HashMap<String, BTreeSet<IpAddr>>,
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
        let lookup = Lookup::new(question, server)?;
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

impl Answer {
    fn new(valid_until: Instant) -> Self {
        Self { targets: Vec::new(), valid_until, missing: Vec::new(), addresses: HashMap::new() }
    }
}

impl Lookup {
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
        Ok(Self {
            resolver,
            question,
            wait: Duration::ZERO,
            failures: 0,
            last: None,
            missing: Vec::new(),
            known: HashMap::new(),
        })
    }

    /// Waits for the next update.
    async fn next(mut self) -> (Option<Item>, Self) {
        loop {
            sleep(self.wait).await;
            match self.ask().await {
                Ok(Answer { targets, valid_until, missing, addresses }) => {
                    self.known = addresses;
                    if !missing.is_empty() && missing != self.missing {
                        tracing::warn!(target: "vestibule::upstream", ?missing, "servers without an address");
                    }
                    self.missing = missing;
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

    async fn ask(&self) -> Result<Answer, BoxError> {
        match &self.question {
            Question::Hosts { name, port } => {
                let mut answer = Answer::new(clock::now() + DNS_MAX_TTL);
                self.hosts(name, *port, 1, 0, &mut answer).await?;
                Ok(answer)
            }
            Question::Srv { name } => self.services(name).await,
        }
    }

    /// Adds the targets of a name in a fixed order.
    async fn hosts(
        &self,
        name: &str,
        port: u16,
        weight: u32,
        tier: u8,
        answer: &mut Answer,
    ) -> Result<(), Unresolved> {
        let found = self.addresses(name).await;
        let (addresses, until) = found.map_err(|error| Unresolved { name: name.into(), error })?;
        let address = |ip: &IpAddr| Address::from(SocketAddr::new(*ip, port));
        let target = |ip| Target { weight, tier, ..Target::new(address(ip)) };
        answer.targets.extend(addresses.iter().map(target));
        answer.valid_until = answer.valid_until.min(until);
        answer.addresses.insert(name.into(), addresses);
        Ok(())
    }

    /// Returns the addresses of a name, and the time until which they are valid. The types are looked up apart, since
    /// `lookup_ip` returns the error of only one of them. If one lookup fails, the last addresses of its type are kept,
    /// unless the name server [answers](is_answer) that there are none.
    async fn addresses(&self, name: &str) -> Result<(BTreeSet<IpAddr>, Instant), NetError> {
        if let Ok(ip) = name.parse() {
            return Ok(([ip].into(), clock::now() + DNS_MAX_TTL));
        }
        let lookup = |record_type| self.resolver.lookup(name, record_type);
        let (a, aaaa) = tokio::join!(lookup(RecordType::A), lookup(RecordType::AAAA));
        let (mut addresses, mut until) = (BTreeSet::new(), clock::now() + DNS_MAX_TTL);
        let (found, error, is_kept): (_, _, fn(&IpAddr) -> bool) = match (a, aaaa) {
            (Ok(a), Ok(aaaa)) => (vec![a, aaaa], None, |_| false),
            (Ok(a), Err(error)) => (vec![a], Some(error), IpAddr::is_ipv6),
            (Err(error), Ok(aaaa)) => (vec![aaaa], Some(error), IpAddr::is_ipv4),
            (Err(a), Err(aaaa)) => return Err(select_error(a, aaaa)),
        };
        for lookup in &found {
            addresses.extend(lookup.answers().iter().filter_map(|record| record.data.ip_addr()));
            until = until.min(lookup.valid_until());
        }
        if error.is_some_and(|error| !is_answer(&error)) {
            let last = self.known.get(name).into_iter().flatten();
            addresses.extend(last.filter(|ip| is_kept(ip)));
            until = until.min(clock::now() + RETRY_TTL);
        }
        Ok((addresses, until))
    }

    async fn services(&self, name: &str) -> Result<Answer, BoxError> {
        let found = self.resolver.srv_lookup(name).await;
        let found = found.map_err(|error| Unresolved { name: name.into(), error })?;
        let mut services: Vec<&SRV> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .collect();
        services.sort_by_key(|srv| (srv.priority, srv.target.to_string(), srv.port));
        let priorities: BTreeSet<u16> = services.iter().map(|srv| srv.priority).collect();
        let valid_until = found.valid_until();
        let mut answer = Answer::new(valid_until);
        let mut last_error = None;
        for srv in services {
            let tier = priorities.range(..srv.priority).count();
            let tier = u8::try_from(tier).unwrap_or(u8::MAX);
            let weight = u32::from(srv.weight).max(1);
            let host = srv.target.to_string();
            match self.hosts(&host, srv.port, weight, tier, &mut answer).await {
                Ok(()) => {}
                Err(error) if error.error.is_no_records_found() => {
                    answer.valid_until = answer.valid_until.min(clock::now() + RETRY_TTL);
                    answer.missing.push(host);
                    last_error = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        match last_error {
            Some(error) if answer.targets.is_empty() => Err(error.into()),
            _ => Ok(answer),
        }
    }
}

/// Returns whether a name server has answered that it has no records of a type. dnsmasq refuses the question if it knows
/// those of another type alone.
fn is_answer(error: &NetError) -> bool {
    let NetError::Dns(error) = error else { return false };
    match error {
        DnsError::NoRecordsFound(_) => true,
        DnsError::ResponseCode(code) => {
            matches!(code, ResponseCode::Refused | ResponseCode::NotImp)
        }
        _ => false,
    }
}

/// Returns the error that tells more about a name: that it does not exist (NXDOMAIN, RFC 8020 section 2: with records of no
/// type), or a failure. That there are no records of one type says nothing about the other one.
fn select_error(a: NetError, aaaa: NetError) -> NetError {
    let has_no_a = a.is_no_records_found() && !a.is_nx_domain();
    if has_no_a || aaaa.is_nx_domain() { aaaa } else { a }
}

/// A name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {name}: {error}")]
struct Unresolved {
    name: String,
    error: NetError,
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
