//! Who is on the other side of a connection, how it came, and until when an answer is of use.

mod pace;
mod request_id;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use http::uri::Scheme;

pub use pace::{Pace, Rate};
pub use request_id::RequestId;

/// Bits of an IPv6 address that make one client, unless set otherwise: 64, since a household or a
/// server is given at least so large a network and may change its address inside of it at will.
pub const IPV6_PREFIX: u8 = 64;

/// The client of a connection, and how the connection came. Every request carries it in its
/// extensions.
///
/// It is built up in the stages of the connection: the accepted socket gives the addresses, a PROXY
/// header replaces the client's ([`proxied`](Self::proxied)), a TLS handshake adds its facts
/// ([`secured`](Self::secured)). Cheap to clone: all requests of a connection share one.
///
/// ```
/// use http::uri::Scheme;
/// use vestibule::peer::{Peer, Tls};
///
/// let peer = Peer::tcp("192.0.2.1:5000".parse().unwrap(), "192.0.2.9:443".parse().unwrap());
/// assert_eq!((peer.ip().unwrap().to_string(), peer.scheme()), ("192.0.2.1".to_owned(), Scheme::HTTP));
///
/// let peer = peer.secured(Tls::new("TLSv1.3").with_server_name("example.com"));
/// assert_eq!(peer.scheme(), Scheme::HTTPS);
/// assert_eq!(peer.tls().unwrap().server_name(), Some("example.com"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(Arc<Facts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    socket: Socket,
    /// Boxed, as few connections have them: each connection owns one of these.
    source: Option<Box<Source>>,
    tls: Option<Box<Tls>>,
}

/// The two ends of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Tcp { remote: SocketAddr, local: SocketAddr },
    Unix,
    Memory,
}

/// What a trusted proxy in front says of the connection, by the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The address of the client that the proxy accepted.
    pub client: SocketAddr,
    /// The address that this client connected to.
    pub destination: SocketAddr,
}

/// The facts of a TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    version: &'static str,
    server_name: Option<Box<str>>,
    alpn: Option<Bytes>,
    client_certificate: Option<Bytes>,
}

impl Tls {
    /// A handshake of this protocol version, as in `TLSv1.3`.
    pub fn new(version: &'static str) -> Self {
        Self { version, server_name: None, alpn: None, client_certificate: None }
    }

    /// The host name that the client asked for (SNI, RFC 6066 section 3).
    #[must_use]
    pub fn with_server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The application protocol that was agreed upon (ALPN, RFC 7301), as in `h2`.
    #[must_use]
    pub fn with_alpn(mut self, protocol: impl Into<Bytes>) -> Self {
        self.alpn = Some(protocol.into());
        self
    }

    /// The client's certificate, in DER, once it has been verified.
    #[must_use]
    pub fn with_client_certificate(mut self, der: impl Into<Bytes>) -> Self {
        self.client_certificate = Some(der.into());
        self
    }

    /// The protocol version, as in `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The host name that the client asked for, if it named one.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The application protocol that was agreed upon, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// The client's verified certificate in DER, if it presented one.
    pub fn client_certificate(&self) -> Option<&[u8]> {
        self.client_certificate.as_deref()
    }
}

impl Peer {
    /// A client on a TCP socket: its address, and the local address that it connected to.
    pub fn tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        Self::new(Socket::Tcp { remote, local })
    }

    /// A client on a Unix socket.
    pub fn unix() -> Self {
        Self::new(Socket::Unix)
    }

    /// A client in memory, as in tests.
    pub fn memory() -> Self {
        Self::new(Socket::Memory)
    }

    fn new(socket: Socket) -> Self {
        Self(Arc::new(Facts { socket, source: None, tls: None }))
    }

    /// The same client, with the addresses that a trusted proxy in front gives for it.
    #[must_use]
    pub fn proxied(mut self, source: Source) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Box::new(source));
        self
    }

    /// The same client, behind a TLS handshake.
    #[must_use]
    pub fn secured(mut self, tls: Tls) -> Self {
        Arc::make_mut(&mut self.0).tls = Some(Box::new(tls));
        self
    }

    /// The scheme of its requests: `https` behind a TLS handshake, else `http`.
    pub fn scheme(&self) -> Scheme {
        if self.0.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// The facts of the TLS handshake, if there was one.
    pub fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_deref()
    }

    /// What a proxy in front said of the connection, if one did.
    pub fn source(&self) -> Option<&Source> {
        self.0.source.as_deref()
    }

    /// The client's IP address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.addr().map(|a| a.ip())
    }

    /// The key by which limits count this client; `None` without an IP address. An IPv4 address counts by itself,
    /// also one that came by an IPv6 socket (`::ffff:192.0.2.1`). Of an IPv6 address only the first
    /// `ipv6_prefix` bits count; [`IPV6_PREFIX`] is usual.
    ///
    /// ```
    /// use vestibule::peer::{IPV6_PREFIX, Peer};
    ///
    /// let here = "[2001:db8::9]:80".parse().unwrap();
    /// let peer = Peer::tcp("[2001:db8:1:2:3:4:5:6]:5000".parse().unwrap(), here);
    /// assert_eq!(peer.network(IPV6_PREFIX).unwrap().to_string(), "2001:db8:1:2::");
    /// ```
    pub fn network(&self, ipv6_prefix: u8) -> Option<IpAddr> {
        Some(match self.ip()?.to_canonical() {
            IpAddr::V4(ip) => IpAddr::V4(ip),
            IpAddr::V6(ip) => {
                let rest = 128u32.saturating_sub(ipv6_prefix.into());
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        })
    }

    /// The client's address and port, where it has one: the one that a proxy in front gave, else
    /// that of the socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match (self.source(), self.0.socket) {
            (Some(source), _) => Some(source.client),
            (None, Socket::Tcp { remote, .. }) => Some(remote),
            (None, Socket::Unix | Socket::Memory) => None,
        }
    }

    /// The address at the other end of the socket, where there is one: a proxy's, if there is a
    /// proxy in front.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.0.socket {
            Socket::Tcp { remote, .. } => Some(remote),
            Socket::Unix | Socket::Memory => None,
        }
    }

    /// The address that the socket was accepted on, where there is one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.0.socket {
            Socket::Tcp { local, .. } => Some(local),
            Socket::Unix | Socket::Memory => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr(), self.0.socket) {
            (Some(addr), _) => addr.fmt(f),
            (None, Socket::Unix) => f.write_str("unix"),
            (None, Socket::Tcp { .. } | Socket::Memory) => f.write_str("memory"),
        }
    }
}

/// Until when the answer to a request is of use; carried in its extensions.
///
/// Time in a queue, in a worker and upstream all draw from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_source_names_the_client_and_the_socket_stays_known() {
        let [client, destination, proxy, local] =
            ["192.0.2.1:1", "192.0.2.2:443", "10.0.0.1:2", "10.0.0.2:80"]
                .map(|addr| addr.parse::<SocketAddr>().unwrap());
        let peer = Peer::tcp(proxy, local);
        let proxied = peer.clone().proxied(Source { client, destination });
        assert_eq!((proxied.addr(), proxied.ip()), (Some(client), Some(client.ip())));
        assert_eq!((proxied.remote_addr(), proxied.local_addr()), (Some(proxy), Some(local)));
        assert_eq!(proxied.to_string(), "192.0.2.1:1");
        assert_eq!(proxied.source().unwrap().destination, destination);
        assert_eq!(peer.addr(), Some(proxy), "a clone is not changed");
        assert_eq!(Peer::unix().proxied(Source { client, destination }).addr(), Some(client));
    }

    #[test]
    fn tls_facts_make_the_scheme_https() {
        let tls = Tls::new("TLSv1.3")
            .with_server_name("a")
            .with_alpn("h2")
            .with_client_certificate(vec![1]);
        let peer = Peer::memory().secured(tls);
        assert_eq!((peer.scheme(), Peer::memory().scheme()), (Scheme::HTTPS, Scheme::HTTP));
        let tls = peer.tls().unwrap();
        assert_eq!((tls.version(), tls.server_name()), ("TLSv1.3", Some("a")));
        assert_eq!((tls.alpn(), tls.client_certificate()), (Some(&b"h2"[..]), Some(&[1][..])));
    }

    #[test]
    fn ipv4_client_is_its_address_and_ipv6_client_its_network() {
        let network = |ip: &str, prefix| {
            let ip: IpAddr = ip.parse().unwrap();
            let peer = Peer::tcp((ip, 1).into(), (ip, 80).into());
            peer.network(prefix).unwrap().to_string()
        };
        for prefix in [0, 64, 128] {
            assert_eq!(network("192.0.2.1", prefix), "192.0.2.1");
            assert_eq!(network("::ffff:192.0.2.1", prefix), "192.0.2.1");
        }
        let ip = "2001:db8:a:b:c:d:e:ffff";
        assert_eq!(network(ip, 0), "::");
        assert_eq!(network(ip, 56), "2001:db8:a::");
        assert_eq!(network(ip, 64), "2001:db8:a:b::");
        assert_eq!(network(ip, 127), "2001:db8:a:b:c:d:e:fffe");
        assert_eq!(network(ip, 128), ip);
        assert_eq!(network(ip, 255), ip);
        assert_eq!((Peer::unix().network(64), Peer::memory().network(64)), (None, None));
    }
}
