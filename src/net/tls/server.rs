//! `Server`: the TLS configuration of listeners, with certificates by host name.

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use super::{
    Host,
    host::{LoadedHost, Protocols, Sessions},
    names::Names,
    provider,
    watch::{Stamp, stamps},
};
use crate::peer::Tls;

/// Default of [`ServerBuilder::handshakes`]: 1,024.
pub const HANDSHAKES: usize = 1024;

/// The response to a client that requests a host without a certificate (RFC 6066 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownName {
    /// The first host's certificate, as in nginx. Clients that verify it end the handshake.
    #[default]
    DefaultHost,
    /// The alert `unrecognized_name`, so that scanners do not learn any name.
    Alert,
}

/// The TLS configuration of listeners: certificates by host name (SNI), client certificates, session tickets and
/// ALPN.
///
/// Cheap to clone: clones share everything, so one clone can [`reload`](Self::reload) while another one serves.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    hosts: RwLock<Arc<Hosts>>,
    /// Empty for a custom configuration.
    sources: Vec<(Host, Sessions)>,
    /// The stamps of the files at the last successful load. Held during a reload.
    loaded: Mutex<Vec<Stamp>>,
    unknown_name: UnknownName,
    alpn: Vec<Vec<u8>>,
    handshakes: Arc<Semaphore>,
}

/// The hosts, as last loaded.
struct Hosts {
    by_name: Names<Arc<LoadedHost>>,
    default: Arc<LoadedHost>,
    /// Whether any of them requests client certificates.
    has_client_auth: bool,
}

/// Builds a [`Server`]. The order of the hosts matters, that of other options does not.
#[derive(Debug)]
#[must_use]
pub struct ServerBuilder {
    hosts: Vec<Host>,
    unknown_name: UnknownName,
    alpn: Vec<Vec<u8>>,
    handshakes: usize,
}

impl ServerBuilder {
    /// Adds a host. The first one is the default, for clients that do not send a name. If several hosts have the same
    /// name, the first one is used.
    pub fn host(mut self, host: Host) -> Self {
        self.hosts.push(host);
        self
    }

    /// Sets the response to a client that requests an unknown host. Defaults to [`UnknownName::DefaultHost`].
    pub fn unknown_name(mut self, answer: UnknownName) -> Self {
        self.unknown_name = answer;
        self
    }

    /// Sets the application protocols (ALPN, RFC 7301), in order of preference. Defaults to those that this build
    /// supports: `h2`, with that feature, and `http/1.1`. A client that offers only others gets the alert
    /// `no_application_protocol`. A listener without HTTP/2 does not offer `h2`.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the maximum number of concurrent handshakes, so that a burst of clients does not get its key exchanges and
    /// certificates all at once. Further clients wait, within `head_timeout`. Defaults to [`HANDSHAKES`]. Zero is an error of
    /// [`build`](Self::build).
    ///
    /// A handshake counts from its complete ClientHello on, for at most 250 ms: clients that stop in the middle do not
    /// keep others out.
    pub fn handshakes(mut self, n: usize) -> Self {
        self.handshakes = n;
        self
    }

    /// Reads all files.
    ///
    /// # Errors
    /// No host, zero handshakes, a file that cannot be read, or a key that does not match its certificate. The text
    /// names the file.
    pub fn build(self) -> io::Result<Server> {
        if self.hosts.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "TLS needs a host with a certificate",
            ));
        }
        if self.handshakes == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "`handshakes` must be at least 1",
            ));
        }
        let sources: Vec<_> = self.hosts.into_iter().map(|h| (h, Sessions::default())).collect();
        let stamps = stamps(&files(&sources)); // before the load, so that no change is missed
        let hosts = load(&sources, &self.alpn)?;
        Ok(Server(Arc::new(Shared {
            hosts: RwLock::new(Arc::new(hosts)),
            sources,
            loaded: Mutex::new(stamps),
            unknown_name: self.unknown_name,
            alpn: self.alpn,
            handshakes: Arc::new(Semaphore::new(self.handshakes.min(Semaphore::MAX_PERMITS))),
        })))
    }
}

impl Server {
    /// Creates a configuration with one certificate chain and its key, from PEM files.
    ///
    /// # Errors
    /// Those of [`ServerBuilder::build`].
    pub fn pem_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> io::Result<Self> {
        Self::builder().host(Host::pem_files(chain, key)).build()
    }

    /// Returns a builder without a host.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            hosts: Vec::new(),
            unknown_name: UnknownName::default(),
            alpn: super::SPOKEN.iter().map(|protocol| protocol.to_vec()).collect(),
            handshakes: HANDSHAKES,
        }
    }

    /// Creates a server with a configuration of rustls: its certificates, client verification, tickets and ALPN. It
    /// cannot be reloaded; use a custom certificate resolver for that. Two settings are overridden: a listener without
    /// HTTP/2 does not offer `h2`, and early data (0-RTT) is not accepted, since it can be replayed.
    pub fn from_config(config: impl Into<Arc<ServerConfig>>) -> Self {
        let mut config = config.into();
        if config.max_early_data_size > 0 {
            Arc::make_mut(&mut config).max_early_data_size = 0;
        }
        let config = Protocols::new(config);
        let default = Arc::new(LoadedHost { config, names: Vec::new(), has_client_auth: false });
        Self(Arc::new(Shared {
            hosts: RwLock::new(Arc::new(Hosts {
                by_name: Names::default(),
                default,
                has_client_auth: false,
            })),
            sources: Vec::new(),
            loaded: Mutex::default(),
            unknown_name: UnknownName::DefaultHost,
            alpn: Vec::new(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        }))
    }

    /// Reads all files again. New connections use the new content, and open ones do not change. Sessions of hosts
    /// without client certificates can still be resumed. Blocks while it reads.
    ///
    /// # Errors
    /// Those of [`ServerBuilder::build`]. In that case nothing changes.
    pub fn reload(&self) -> io::Result<()> {
        let shared = &*self.0;
        if shared.sources.is_empty() {
            return Ok(());
        }
        // An earlier reload must not replace the result of a later one.
        let mut loaded = shared.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&files(&shared.sources));
        let hosts = Arc::new(load(&shared.sources, &shared.alpn)?);
        *shared.hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts;
        *loaded = stamps;
        Ok(())
    }

    /// Returns whether a file has changed since the last successful load. Blocks while it checks.
    pub(super) fn have_files_changed(&self) -> bool {
        let now = stamps(&files(&self.0.sources));
        *self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner) != now
    }

    /// Returns whether a request for `host` may be served on a connection with these facts: `false` if the host
    /// requests client certificates, and the handshake was with another host. Then the response is 421 (RFC 9110
    /// section 15.5.20).
    ///
    /// A wildcard of a `Router` matches any number of labels, one of a certificate a single one. So the host that a
    /// wildcard at any depth names counts, too: its certificate does not apply to `host`, but the services behind it may.
    pub(crate) fn is_authoritative(&self, facts: &Tls, host: &str) -> bool {
        let hosts = self.hosts();
        if !hosts.has_client_auth {
            return true;
        }
        let served = facts.server_name().and_then(|name| hosts.by_name.get(name));
        let served = served.unwrap_or(&hosts.default);
        [hosts.by_name.get(host), hosts.by_name.get_at_any_depth(host)].into_iter().all(|found| {
            let requested = found.unwrap_or(&hosts.default);
            !requested.has_client_auth || Arc::ptr_eq(served, requested)
        })
    }

    /// Returns the configuration for a client that requests this host; `None` if it must be refused.
    pub(super) fn config_for(
        &self,
        name: Option<&str>,
        has_http2: bool,
    ) -> Option<Arc<ServerConfig>> {
        let hosts = self.hosts();
        let found = name.map(|name| hosts.by_name.get(name));
        let host = match found {
            Some(Some(host)) => host,
            Some(None) if self.0.unknown_name == UnknownName::Alert => return None,
            Some(None) | None => &hosts.default,
        };
        Some(host.config.get(has_http2))
    }

    pub(super) fn handshakes(&self) -> &Semaphore {
        &self.0.handshakes
    }

    fn hosts(&self) -> Arc<Hosts> {
        self.0.hosts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the files that a load reads.
fn files(sources: &[(Host, Sessions)]) -> Vec<PathBuf> {
    sources.iter().flat_map(|(host, _)| host.files()).map(PathBuf::from).collect()
}

/// Loads all hosts.
fn load(sources: &[(Host, Sessions)], alpn: &[Vec<u8>]) -> io::Result<Hosts> {
    let provider = provider();
    let mut by_name = Names::default();
    let mut default = None;
    let mut has_client_auth = false;
    for (host, sessions) in sources {
        let loaded = Arc::new(host.load(&provider, sessions, alpn)?);
        has_client_auth |= loaded.has_client_auth;
        for name in &loaded.names {
            by_name.insert(name, loaded.clone());
        }
        default.get_or_insert(loaded);
    }
    let default = default.expect("`build` has checked that there is a host");
    Ok(Hosts { by_name, default, has_client_auth })
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("hosts", &self.0.sources.len()).finish_non_exhaustive()
    }
}
