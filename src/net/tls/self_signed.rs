//! `self_signed`: a certificate for development.

use std::io;

use super::{Host, Server};

/// Creates the TLS configuration of a listener with a new self-signed certificate, for development: browsers warn,
/// and `curl` needs `--insecure`. The key is in memory only, so the certificate changes with each start.
///
/// ```
/// let tls = vestibule::tls::self_signed(["localhost", "127.0.0.1"])?;
/// # drop(tls);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
/// A name that is no DNS name or IP address; none.
pub fn self_signed<N: Into<String>>(names: impl IntoIterator<Item = N>) -> io::Result<Server> {
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    let invalid = |e: rcgen::Error| io::Error::new(io::ErrorKind::InvalidInput, e.to_string());
    let made = rcgen::generate_simple_self_signed(names).map_err(invalid)?;
    let host = Host::pem(made.cert.pem(), made.signing_key.serialize_pem());
    Server::builder().host(host).build()
}
