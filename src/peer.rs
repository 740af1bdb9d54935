//! Who is on the other side of a connection, how it came, and until when an answer is of use.

mod network;
mod rate;
mod request_id;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use http::uri::Scheme;

pub use network::{InvalidNetwork, Network};
pub use rate::{RateMeter, MinRate};
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
/// Behind a proxy that says in a header field who its client is, each request has a client of its own:
/// [`TrustedProxyLayer`](crate::layer::TrustedProxyLayer) sets it
/// ([`forwarded_for`](Self::forwarded_for)). Then [`ip`](Self::ip) and [`scheme`](Self::scheme) are the
/// client's, and [`hop_ip`](Self::hop_ip) and [`hop_scheme`](Self::hop_scheme) the proxy's.
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
    proxied: Option<Box<Proxied>>,
    tls: Option<Box<Tls>>,
}

/// What trusted proxies in front say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Proxied {
    /// Of the connection.
    source: Option<Source>,
    /// Of the request: its client's address, and its port if that is known.
    client: Option<(IpAddr, Option<u16>)>,
    /// Of the request: the scheme that its client used.
    scheme: Option<Scheme>,
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
        Self(Arc::new(Facts { socket, proxied: None, tls: None }))
    }

    /// The same client, with the addresses that a trusted proxy in front gives for it by the PROXY
    /// protocol.
    #[must_use]
    pub fn proxied(mut self, source: Source) -> Self {
        self.proxied_mut().source = Some(source);
        self
    }

    /// The same hop, for a client at this address, which a trusted proxy names in the request; its port
    /// is often unknown.
    #[must_use]
    pub fn forwarded_for(mut self, ip: IpAddr, port: Option<u16>) -> Self {
        self.proxied_mut().client = Some((ip, port));
        self
    }

    /// The same hop, for a client that used this scheme, which a trusted proxy names in the request.
    #[must_use]
    pub fn forwarded_proto(mut self, scheme: Scheme) -> Self {
        self.proxied_mut().scheme = Some(scheme);
        self
    }

    fn proxied_mut(&mut self) -> &mut Proxied {
        Arc::make_mut(&mut self.0).proxied.get_or_insert_default()
    }

    /// The same client, behind a TLS handshake.
    #[must_use]
    pub fn secured(mut self, tls: Tls) -> Self {
        Arc::make_mut(&mut self.0).tls = Some(Box::new(tls));
        self
    }

    /// The scheme that the client used: the one that a trusted proxy names, else that of the
    /// [hop](Self::hop_scheme).
    pub fn scheme(&self) -> Scheme {
        let named = self.0.proxied.as_ref().and_then(|proxied| proxied.scheme.clone());
        named.unwrap_or_else(|| self.hop_scheme())
    }

    /// The scheme of the connection: `https` behind a TLS handshake, else `http`.
    pub fn hop_scheme(&self) -> Scheme {
        if self.0.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// The facts of the TLS handshake, if there was one.
    pub fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_deref()
    }

    /// What a proxy in front said of the connection by the PROXY protocol, if one did.
    pub fn source(&self) -> Option<&Source> {
        self.0.proxied.as_ref()?.source.as_ref()
    }

    /// The client's IP address, where it has one: the one that a trusted proxy names in the request, else
    /// that of the [hop](Self::hop_ip).
    pub fn ip(&self) -> Option<IpAddr> {
        self.client().map(|(ip, _)| ip)
    }

    /// The IP address of the one that sends requests on this connection: the client, or an HTTP proxy in
    /// front. It is the address that the PROXY protocol gave, else that of the socket, where it has one.
    pub fn hop_ip(&self) -> Option<IpAddr> {
        self.hop_addr().map(|addr| addr.ip())
    }

    fn hop_addr(&self) -> Option<SocketAddr> {
        self.source().map(|source| source.client).or_else(|| self.remote_addr())
    }

    /// The client's address, and its port if that is known.
    fn client(&self) -> Option<(IpAddr, Option<u16>)> {
        let named = self.0.proxied.as_ref().and_then(|proxied| proxied.client);
        named.or_else(|| self.hop_addr().map(|addr| (addr.ip(), Some(addr.port()))))
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

    /// The client's address and port, where both are known: a proxy that [names](Self::forwarded_for) the
    /// client often leaves out its port.
    pub fn addr(&self) -> Option<SocketAddr> {
        let (ip, port) = self.client()?;
        Some(SocketAddr::new(ip, port?))
    }

    /// Whether it is on a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.0.socket == Socket::Unix
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
        match (self.client(), self.0.socket) {
            (Some((ip, Some(port))), _) => SocketAddr::new(ip, port).fmt(f),
            (Some((ip, None)), _) => ip.fmt(f),
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
    fn forwarded_client_is_apart_from_its_hop() {
        let proxy: SocketAddr = "10.0.0.1:2".parse().unwrap();
        let peer = Peer::tcp(proxy, "10.0.0.2:80".parse().unwrap());
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        let named = peer.clone().forwarded_for(ip, None).forwarded_proto(Scheme::HTTPS);
        assert_eq!((named.ip(), named.addr(), named.to_string()), (Some(ip), None, ip.to_string()));
        assert_eq!((named.hop_ip(), named.remote_addr()), (Some(proxy.ip()), Some(proxy)));
        assert_eq!((named.scheme(), named.hop_scheme()), (Scheme::HTTPS, Scheme::HTTP));
        assert_eq!(named.network(IPV6_PREFIX).unwrap().to_string(), "2001:db8::");
        assert_eq!((peer.ip(), peer.scheme()), (Some(proxy.ip()), Scheme::HTTP), "not changed");

        let named = Peer::unix().forwarded_for(ip, Some(7));
        assert_eq!((named.addr(), named.hop_ip()), (Some((ip, 7).into()), None));
        assert_eq!(named.to_string(), "[2001:db8::1]:7");

        let [client, destination] = ["192.0.2.1:1", "192.0.2.2:443"].map(|a| a.parse().unwrap());
        let behind = peer.proxied(Source { client, destination }).forwarded_for(ip, None);
        assert_eq!((behind.ip(), behind.hop_ip()), (Some(ip), Some(client.ip())));
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
