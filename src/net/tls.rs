//! TLS for listeners and for connections to servers, by rustls.
//!
//! [`Server`] is the TLS side of a listener: certificates by host name, client certificates, reload. [`Client`]
//! connects to servers and verifies their certificates.
//!
//! ```no_run
//! use vestibule::{Router, serve, tls};
//!
//! # async fn run() -> std::io::Result<()> {
//! let tls = tls::Server::builder()
//!     .host(tls::Host::pem_files("/etc/ssl/site.pem", "/etc/ssl/site.key")) // the first one is the default
//!     .host(
//!         tls::Host::pem_files("/etc/ssl/admin.pem", "/etc/ssl/admin.key")
//!             .require_client_certificate("/etc/ssl/staff-ca.pem"),
//!     )
//!     .build()?;
//! tokio::spawn(tls.clone().watch(tls::WATCH_INTERVAL)); // reads renewed certificates
//! serve("0.0.0.0:443", Router::new()).tls(tls).await
//! # }
//! ```
//!
//! The versions are TLS 1.2 and 1.3, with the default cipher suites and key exchanges of the cryptography provider: that
//! which the process has installed ([`CryptoProvider::install_default`](rustls::crypto::CryptoProvider::install_default)),
//! or else `ring`. Of the common suites the first in the client's order is taken. Session tickets are always encrypted by
//! `ring`, except those of a custom `ServerConfig`.

mod client;
mod counted;
mod handshake;
mod host;
mod names;
mod pem;
#[cfg(feature = "self-signed")]
mod self_signed;
mod server;
mod stream;
mod watch;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{fmt, io, sync::Arc};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

pub use client::{Client, ClientBuilder};
pub use handshake::HandshakeError;
pub use host::Host;
#[cfg(feature = "self-signed")]
pub use self_signed::self_signed;
pub use server::{HANDSHAKES, Server, ServerBuilder, UnknownName};
pub use stream::MaybeTls;
#[cfg(all(feature = "h2", feature = "upstream"))]
pub(crate) use stream::alpn;
pub(crate) use stream::plain;
pub use tokio_rustls::rustls;
pub use watch::WATCH_INTERVAL;

/// The name of HTTP/2 in ALPN.
const HTTP2: &[u8] = b"h2";

/// The application protocols that this build supports, in order of preference.
#[cfg(feature = "h2")]
const SPOKEN: &[&[u8]] = &[HTTP2, b"http/1.1"];
#[cfg(not(feature = "h2"))]
const SPOKEN: &[&[u8]] = &[b"http/1.1"];

/// Returns the cryptography provider of this module.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()))
}

/// Converts an error of rustls to one that names its object.
fn invalid(what: impl fmt::Display, error: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: {error}"))
}
