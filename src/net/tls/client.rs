//! `Client`: TLS to servers, with verification of their certificates.

use std::{fmt, io, path::PathBuf, sync::Arc};

use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, client::Resumption, pki_types::ServerName},
};

use super::{MaybeTls, counted::Counted, invalid, pem, provider};
use crate::net::Io;

/// Maximum number of sessions that a client keeps for resumption: 256, a few for each server name.
const SESSIONS: usize = 256;

/// TLS to servers. Certificates are verified, by default with the system's roots.
///
/// Cheap to clone: clones share the sessions for resumption.
///
/// ```no_run
/// use vestibule::tls;
///
/// let internal = tls::Client::builder()
///     .roots("/etc/ssl/internal-ca.pem")
///     .certificate("/etc/ssl/gateway.pem", "/etc/ssl/gateway.key")
///     .build()?;
/// # drop(internal);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// Builds a [`Client`]. The order of options does not matter.
#[derive(Debug, Default)]
#[must_use]
pub struct ClientBuilder {
    roots: Vec<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl ClientBuilder {
    /// Adds the authorities of a PEM file. If there is such a file, the system's roots are not used.
    ///
    /// A self-signed certificate is its own authority, unless it says that it is a CA, as those of `openssl req -x509` do
    /// by default. Such a server is refused with `CaUsedAsEndEntity`; make its certificate with `-addext
    /// basicConstraints=critical,CA:FALSE`.
    pub fn roots(mut self, file: impl Into<PathBuf>) -> Self {
        self.roots.push(file.into());
        self
    }

    /// Sets a certificate chain and its key, from PEM files, for servers that request one.
    pub fn certificate(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((chain.into(), key.into()));
        self
    }

    /// Sets the server name that is sent (SNI) and that the server's certificate must contain. Defaults to the host
    /// in the server's address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Reads all files.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not match its certificate, an invalid name, or no roots.
    pub fn build(self) -> io::Result<Client> {
        let roots = if self.roots.is_empty() {
            system_roots()?
        } else {
            let mut all = RootCertStore::empty();
            for file in &self.roots {
                all.roots.extend(pem::roots(file)?.roots);
            }
            all
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid("TLS", e))?
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(pem::certificates(chain)?, pem::private_key(key)?)
                .map_err(|e| invalid(chain.display(), e))?,
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let server_name = match self.server_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|e| invalid(name, e))?),
        };
        Ok(Client { config: Arc::new(config), server_name })
    }
}

impl Client {
    /// Creates a client with the system's roots.
    ///
    /// # Errors
    /// The system has no roots; see [`ClientBuilder::roots`].
    pub fn new() -> io::Result<Self> {
        Self::builder().build()
    }

    /// Returns a builder with the defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Creates a client with a configuration of rustls, which is used unchanged except for the ALPN protocols.
    pub fn from_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self { config: config.into(), server_name: None }
    }

    /// Returns this client with these ALPN protocols, and with `host`, without a port, as the server name, unless it
    /// has one.
    ///
    /// # Errors
    /// `host` is neither a DNS name nor an IP address.
    pub fn for_server(&self, host: &str, alpn: &[&[u8]]) -> io::Result<Self> {
        let mut client = self.clone();
        let config = Arc::make_mut(&mut client.config);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        if client.server_name.is_none() {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host.clone()).map_err(|e| invalid(host, e))?;
            client.server_name = Some(name);
        }
        Ok(client)
    }

    /// Performs a handshake. The caller applies the timeout.
    ///
    /// # Errors
    /// Errors of the stream and of TLS, for example a certificate that is not valid for the server name.
    pub async fn connect<I: Io>(&self, io: I) -> io::Result<MaybeTls<I>> {
        let name = self.server_name.clone();
        let name = name.ok_or_else(|| io::Error::other("no name for the server's certificate"))?;
        let stream =
            TlsConnector::from(self.config.clone()).connect(name, Counted::new(io)).await?;
        Ok(MaybeTls::secured(stream))
    }
}

/// Reads the system's roots.
fn system_roots() -> io::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old roots that rustls cannot parse are ignored.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |e| format!(": {e}"));
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("the system has no root certificates (install ca-certificates){why}"),
        ));
    }
    Ok(roots)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
