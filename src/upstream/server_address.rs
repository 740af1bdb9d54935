//! `ServerAddress`: the address of a server, and its protocol.

use std::{fmt, io, str::FromStr};

use crate::net::Address;

/// A server: `host:port`, `http://host`, `https://host`, `h2://host:port` or `unix:/path`. A URL may have a port, and no path.
///
/// ```
/// use vestibule::upstream::{Scheme, ServerAddress};
///
/// let server: ServerAddress = "https://api.example".parse()?;
/// assert_eq!((server.scheme(), server.to_string().as_str()), (Scheme::Https, "https://api.example:443"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    scheme: Scheme,
    address: Address,
}

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3): `h2://`. Needs the feature `h2`.
    Http2,
    /// TLS, and the protocol that the server chooses (ALPN): HTTP/2, with the feature `h2`, or HTTP/1.1. Needs the
    /// feature `tls`.
    Https,
}

impl ServerAddress {
    /// Creates the address of a server.
    pub fn new(scheme: Scheme, address: Address) -> Self {
        Self { scheme, address }
    }

    /// Returns the protocol of the server.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the network address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the host, with its port unless that is the default of the scheme.
    pub(super) fn authority(&self) -> Option<&str> {
        let Address::Tcp(host) = &self.address else { return None };
        let default_port = match self.scheme {
            Scheme::Http | Scheme::Http2 => ":80",
            Scheme::Https => ":443",
        };
        Some(host.strip_suffix(default_port).unwrap_or(host))
    }

    /// Returns the host without its port, for TLS.
    pub(super) fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp(host) => host.rsplit_once(':').map(|(host, _port)| host),
            Address::Unix(_) => None,
        }
    }
}

/// An address with HTTP/1.1 without TLS.
impl From<Address> for ServerAddress {
    fn from(address: Address) -> Self {
        Self::new(Scheme::Http, address)
    }
}

impl FromStr for ServerAddress {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        for (prefix, scheme, port) in
            [("https://", Scheme::Https, 443), ("http://", Scheme::Http, 80)]
        {
            if let Some(host) = text.strip_prefix(prefix) {
                return Ok(Self::new(scheme, parse_host(text, host, port)?));
            }
        }
        if let Some(host) = text.strip_prefix("h2://") {
            return Ok(Self::new(Scheme::Http2, host.parse()?));
        }
        let address = text.parse().map_err(|_| {
            let why = format!(
                "'{text}' is neither host:port, http://host, https://host, h2://host:port nor unix:/path"
            );
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        Ok(Self::new(Scheme::Http, address))
    }
}

/// Parses the part of `url` after its scheme, with this default port.
fn parse_host(url: &str, host: &str, port: u16) -> io::Result<Address> {
    let host = host.trim_end_matches('/');
    if host.is_empty() || host.contains('/') {
        let why = match host {
            "" => format!("'{url}' needs a host"),
            _ => format!(
                "'{url}' has a path, and an address has none: see `UpstreamBuilder::rewrite`"
            ),
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // An IPv6 address contains colons.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    if has_port { host.parse() } else { format!("{host}:{port}").parse() }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Http => {}
            Scheme::Http2 => f.write_str("h2://")?,
            Scheme::Https => f.write_str("https://")?,
        }
        self.address.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_parsed_with_its_scheme_and_default_port() {
        for (text, scheme, shown, host) in [
            ("a:80", Scheme::Http, "a:80", Some("a")),
            ("http://a:8080/", Scheme::Http, "a:8080", Some("a")),
            ("http://a", Scheme::Http, "a:80", Some("a")),
            ("http://[::1]", Scheme::Http, "[::1]:80", Some("[::1]")),
            ("unix:/a", Scheme::Http, "unix:/a", None),
            ("h2://a:80", Scheme::Http2, "h2://a:80", Some("a")),
            ("https://a", Scheme::Https, "https://a:443", Some("a")),
            ("https://a:8443/", Scheme::Https, "https://a:8443", Some("a")),
            ("https://[::1]", Scheme::Https, "https://[::1]:443", Some("[::1]")),
            ("https://[::1]:1", Scheme::Https, "https://[::1]:1", Some("[::1]")),
        ] {
            let address: ServerAddress = text.parse().unwrap();
            assert_eq!((address.scheme(), &*address.to_string()), (scheme, shown), "{text}");
            assert_eq!(address.host(), host);
        }
        for (text, authority) in [
            ("a:80", Some("a")),
            ("h2://a:80", Some("a")),
            ("http://[::1]", Some("[::1]")),
            ("https://a", Some("a")),
            ("https://a:80", Some("a:80")),
            ("a:443", Some("a:443")),
            ("a:8080", Some("a:8080")),
            ("unix:/a", None),
        ] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().authority(), authority, "{text}");
        }
        for text in
            ["", "a", "https://", "http://", "https://a/b", "h2://a", "ftp://a:1", "https://a:x"]
        {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
        let error = "http://a:80/b".parse::<ServerAddress>().unwrap_err().to_string();
        assert_eq!(
            error,
            "'http://a:80/b' has a path, and an address has none: see `UpstreamBuilder::rewrite`"
        );
    }
}
