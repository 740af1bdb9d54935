//! Certificates and keys from PEM files (RFC 7468).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::invalid;

/// Maximum size of a PEM file: 4 MiB. A bundle of all public roots has 250 KiB.
const MAX_FILE: u64 = 4 << 20;

/// Reads a file of at most [`MAX_FILE`] bytes.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let cannot =
        |e: io::Error| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(invalid(
            path.display(),
            "larger than 4 MiB, which is too large for a PEM file",
        ));
    }
    Ok(bytes)
}

/// Reads the certificates of a file in their order.
pub(super) fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    parse_certificates(&read(path)?).map_err(|e| invalid(path.display(), e))
}

/// Parses certificates. There must be at least one.
pub(super) fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| e.to_string())?;
    if found.is_empty() {
        return Err("it contains no `BEGIN CERTIFICATE`".to_owned());
    }
    Ok(found)
}

/// Reads the first private key of a file: PKCS#8, PKCS#1 or SEC 1, not encrypted.
pub(super) fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    parse_private_key(&read(path)?).map_err(|e| invalid(path.display(), e))
}

/// Parses the first private key.
pub(super) fn parse_private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| "it contains no private key, or an encrypted one: decrypt it first".to_owned())
}

/// Reads the certificates of authorities.
pub(super) fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| invalid(path.display(), e))?;
    }
    Ok(roots)
}
