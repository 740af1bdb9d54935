//! Certificates for tests.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::ServerName},
};

/// An authority whose certificates are written to a folder, which is removed with it.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the file with its own certificate.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// Writes a certificate for these names, and its key, to `NAME.pem` and `NAME.key`.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        self.issue_until(file, names, 2100)
    }

    /// Writes a certificate like [`issue`](Self::issue), valid until the beginning of a year.
    pub(crate) fn issue_until(&self, file: &str, names: &[&str], year: i32) -> (PathBuf, PathBuf) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let [chain, key_file] = ["pem", "key"].map(|e| self.folder().join(format!("{file}.{e}")));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (chain, key_file)
    }

    /// Returns a client that trusts this authority, and offers these ALPN protocols.
    pub(crate) fn client(&self, alpn: &[&str]) -> TlsConnector {
        self.client_with(alpn, None)
    }

    /// Returns a client with a certificate.
    pub(crate) fn client_with(
        &self,
        alpn: &[&str],
        certificate: Option<&(PathBuf, PathBuf)>,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let (chain, key) = (super::pem::certificates(chain), super::pem::private_key(key));
                builder.with_client_auth_cert(chain.unwrap(), key.unwrap()).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }
}

/// Returns a configuration with one certificate, for [`Server::from_config`](super::Server::from_config).
pub(crate) fn server_config((chain, key): &(PathBuf, PathBuf)) -> ServerConfig {
    let (chain, key) = (super::pem::certificates(chain), super::pem::private_key(key));
    let builder = ServerConfig::builder_with_provider(super::provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    builder.with_single_cert(chain.unwrap(), key.unwrap()).unwrap()
}

/// Returns the name of a server, for a client.
pub(crate) fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}
