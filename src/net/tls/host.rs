//! `Host`: a certificate with its names and its policy for client certificates.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio_rustls::rustls::{
    Error, InconsistentKeys, ServerConfig,
    crypto::{CryptoProvider, ring::Ticketer},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{
        ProducesTickets, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use webpki::EndEntityCert;

use super::{HTTP2, invalid, pem};

/// Maximum number of sessions without tickets that a host keeps for resumption: 1,024, for clients of TLS 1.2 without
/// tickets.
const SESSIONS: usize = 1024;

/// A host of a [`Server`](super::Server): a certificate, its names, and the policy for client certificates.
///
/// Each host has its own session tickets: a session of one host cannot be resumed with another one, whose policy may
/// be stricter.
#[derive(Debug, Clone)]
#[must_use]
pub struct Host {
    source: Source,
    names: Option<Vec<String>>,
    client_auth: ClientAuth,
}

#[derive(Clone)]
enum Source {
    Files { chain: PathBuf, key: PathBuf },
    Pem { chain: String, key: String },
}

#[derive(Debug, Clone)]
enum ClientAuth {
    None,
    Optional(PathBuf),
    Required(PathBuf),
}

impl Host {
    /// Creates a host with the certificate chain and the private key of two PEM files, which are read by
    /// [`build`](super::ServerBuilder::build) and by each reload. The key may be in the same file.
    pub fn pem_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Source::Files { chain: chain.into(), key: key.into() })
    }

    /// Creates a host with a certificate chain and a private key in PEM.
    pub fn pem(chain: impl Into<String>, key: impl Into<String>) -> Self {
        Self::new(Source::Pem { chain: chain.into(), key: key.into() })
    }

    fn new(source: Source) -> Self {
        Self { source, names: None, client_auth: ClientAuth::None }
    }

    /// Sets the names for which the certificate is used, for example `example.com` or `*.example.com`. Defaults to
    /// those in the certificate. A wildcard matches one label. If the host requests client certificates, requests for names
    /// further below the wildcard are refused on connections to other hosts.
    pub fn names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.names = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Requires a client certificate issued by an authority in this PEM file. Without one the handshake fails.
    pub fn require_client_certificate(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_auth = ClientAuth::Required(authorities.into());
        self
    }

    /// Requests a client certificate, which is optional but must be valid. It is available as
    /// [`Tls::client_certificate`](crate::peer::Tls::client_certificate).
    pub fn request_client_certificate(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.client_auth = ClientAuth::Optional(authorities.into());
        self
    }

    /// Returns the files that a reload reads.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let (chain, key) = match &self.source {
            Source::Files { chain, key } => (Some(chain), Some(key)),
            Source::Pem { .. } => (None, None),
        };
        let authorities = match &self.client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional(path) | ClientAuth::Required(path) => Some(path),
        };
        [chain, key, authorities].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files and builds the host's configuration.
    pub(super) fn load(
        &self,
        provider: &Arc<CryptoProvider>,
        sessions: &Sessions,
        alpn: &[Vec<u8>],
    ) -> io::Result<LoadedHost> {
        let (certified, what) = self.certified_key(provider)?;
        let names = match &self.names {
            Some(names) => names.clone(),
            None => certificate_names(&certified.cert).map_err(|e| invalid(&what, e))?,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid("TLS", e))?;
        let verifier = self.client_verifier(provider)?;
        let has_client_auth = verifier.is_some();
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols = alpn.to_vec();
        // A session contains the verified client certificate, so it must not outlive a change of the authorities.
        let (ticketer, storage) = if has_client_auth { new_sessions()? } else { sessions.get()? };
        config.ticketer = ticketer;
        config.session_storage = storage;
        Ok(LoadedHost { config: Protocols::new(config.into()), names, has_client_auth })
    }

    /// Reads the certificate and its key. Also returns their description for errors.
    fn certified_key(&self, provider: &CryptoProvider) -> io::Result<(CertifiedKey, String)> {
        let (chain, key, what): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, String) =
            match &self.source {
                Source::Files { chain, key } => {
                    let what = format!("{} with the key {}", chain.display(), key.display());
                    (pem::certificates(chain)?, pem::private_key(key)?, what)
                }
                Source::Pem { chain, key } => {
                    let what = "the certificate";
                    let chain = pem::parse_certificates(chain.as_bytes());
                    let key = pem::parse_private_key(key.as_bytes());
                    let chain = chain.map_err(|e| invalid(what, e))?;
                    (chain, key.map_err(|e| invalid("the private key", e))?, what.to_owned())
                }
            };
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(certified) => Ok((certified, what)),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(invalid(what, "the key belongs to another certificate"))
            }
            Err(error) => Err(invalid(what, error)),
        }
    }

    fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> io::Result<Option<Arc<dyn ClientCertVerifier>>> {
        let (path, is_required) = match &self.client_auth {
            ClientAuth::None => return Ok(None),
            ClientAuth::Optional(path) => (path, false),
            ClientAuth::Required(path) => (path, true),
        };
        let roots = Arc::new(pem::roots(path)?);
        let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let builder = if is_required { builder } else { builder.allow_unauthenticated() };
        builder.build().map(Some).map_err(|e| invalid(path.display(), e))
    }
}

/// The key pair of session tickets, and the sessions without tickets.
type SessionState = (Arc<dyn ProducesTickets>, Arc<dyn StoresServerSessions>);

/// Creates the session state of one host.
fn new_sessions() -> io::Result<SessionState> {
    let ticketer = Ticketer::new().map_err(|e| invalid("session tickets", e))?;
    Ok((ticketer, ServerSessionMemoryCache::new(SESSIONS)))
}

/// The session state of a host, which is kept by reloads.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Option<SessionState>>);

impl Sessions {
    fn get(&self) -> io::Result<SessionState> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = &*kept {
            return Ok(sessions.clone());
        }
        let sessions = new_sessions()?;
        *kept = Some(sessions.clone());
        Ok(sessions)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

/// A configuration, for listeners with HTTP/2 and for those without it.
#[derive(Debug)]
pub(super) struct Protocols {
    all: Arc<ServerConfig>,
    without_http2: Arc<ServerConfig>,
}

impl Protocols {
    pub(super) fn new(all: Arc<ServerConfig>) -> Self {
        let mut without_http2 = all.clone();
        if all.alpn_protocols.iter().any(|protocol| protocol == HTTP2) {
            // Tickets and sessions are shared.
            let config = Arc::make_mut(&mut without_http2);
            config.alpn_protocols.retain(|protocol| protocol != HTTP2);
        }
        Self { all, without_http2 }
    }

    pub(super) fn get(&self, has_http2: bool) -> Arc<ServerConfig> {
        if has_http2 { self.all.clone() } else { self.without_http2.clone() }
    }
}

/// A host with the content of its files.
#[derive(Debug)]
pub(super) struct LoadedHost {
    pub(super) config: Protocols,
    pub(super) names: Vec<String>,
    pub(super) has_client_auth: bool,
}

/// Returns the DNS names of the first certificate.
fn certificate_names(chain: &[CertificateDer<'_>]) -> Result<Vec<String>, String> {
    let first = chain.first().ok_or("no certificate")?;
    let parsed = EndEntityCert::try_from(first).map_err(|e| e.to_string())?;
    Ok(parsed.valid_dns_names().map(str::to_owned).collect())
}

/// Does not print the key.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files { chain, key } => write!(f, "{} {}", chain.display(), key.display()),
            Self::Pem { .. } => f.write_str("PEM"),
        }
    }
}
