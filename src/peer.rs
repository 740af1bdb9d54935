//! The client of a request ([`Peer`]), and the id and the deadline of a request. All are in the extensions of requests.
//!
//! ```
//! use vestibule::peer::Peer;
//!
//! let peer = Peer::tcp("192.0.2.7:50000".parse()?, "10.0.0.1:443".parse()?);
//! let request = http::Request::get("/").extension(peer).body(()).unwrap();
//! let client = request.extensions().get::<Peer>().and_then(Peer::ip);
//! assert_eq!(client, Some("192.0.2.7".parse()?));
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

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
pub use rate::{MinRate, RateMeter};
pub use request_id::RequestId;

/// The default prefix length of a client's IPv6 network, 64 bits: a household or a server has at least such a
/// network and may change its address within it.
pub const IPV6_PREFIX: u8 = 64;

/// The client of a connection, with its addresses, scheme and TLS facts. It is in the extensions of every
/// request.
///
/// The stages of the connection complete it: the accepted socket has the addresses, a PROXY header replaces
/// that of the client ([`proxied`](Self::proxied)), a TLS handshake adds its facts
/// ([`secured`](Self::secured)). Cheap to clone: all requests of a connection share one.
///
/// Behind a proxy that names its client in a header field, each request has its own client:
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
    /// Boxed, since every connection owns a `Facts` and few have these.
    proxied: Option<Box<Proxied>>,
    tls: Option<Box<Tls>>,
}

/// The facts that trusted proxies in front provide.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Proxied {
    /// The addresses of the PROXY protocol.
    addresses: Option<ProxyAddresses>,
    /// The client of the request: its address, and its port if known.
    client: Option<(IpAddr, Option<u16>)>,
    /// The scheme that the client of the request used.
    scheme: Option<Scheme>,
}

/// The two ends of the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Tcp { remote: SocketAddr, local: SocketAddr },
    Unix,
    Memory,
}

/// The addresses that a trusted proxy in front sends by the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyAddresses {
    /// The address of the client that the proxy accepted.
    pub client: SocketAddr,
    /// The address that the client connected to.
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
    /// Creates the facts of a handshake with this protocol version, for example `TLSv1.3`.
    pub fn new(version: &'static str) -> Self {
        Self { version, server_name: None, alpn: None, client_certificate: None }
    }

    /// Sets the host name that the client requested (SNI, RFC 6066 section 3).
    #[must_use]
    pub fn with_server_name(mut self, name: &str) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the negotiated application protocol (ALPN, RFC 7301), for example `h2`.
    #[must_use]
    pub fn with_alpn(mut self, protocol: impl Into<Bytes>) -> Self {
        self.alpn = Some(protocol.into());
        self
    }

    /// Sets the client's certificate in DER, which must have been verified.
    #[must_use]
    pub fn with_client_certificate(mut self, der: impl Into<Bytes>) -> Self {
        self.client_certificate = Some(der.into());
        self
    }

    /// Returns the protocol version, for example `TLSv1.3`.
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// Returns the host name that the client requested, if any.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Returns the negotiated application protocol, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// Returns the client's verified certificate in DER, if it presented one.
    pub fn client_certificate(&self) -> Option<&[u8]> {
        self.client_certificate.as_deref()
    }
}

impl Peer {
    /// Creates the peer of a TCP socket from its remote and local address.
    pub fn tcp(remote: SocketAddr, local: SocketAddr) -> Self {
        Self::new(Socket::Tcp { remote, local })
    }

    /// Creates the peer of a Unix socket.
    pub fn unix() -> Self {
        Self::new(Socket::Unix)
    }

    /// Creates the peer of a transport in memory, for tests.
    pub fn memory() -> Self {
        Self::new(Socket::Memory)
    }

    fn new(socket: Socket) -> Self {
        Self(Arc::new(Facts { socket, proxied: None, tls: None }))
    }

    /// Sets the addresses that a trusted proxy in front sends by the PROXY protocol.
    #[must_use]
    pub fn proxied(mut self, addresses: ProxyAddresses) -> Self {
        self.proxied_mut().addresses = Some(addresses);
        self
    }

    /// Sets the client that a trusted proxy names in the request. Its port is often unknown.
    #[must_use]
    pub fn forwarded_for(mut self, ip: IpAddr, port: Option<u16>) -> Self {
        self.proxied_mut().client = Some((ip, port));
        self
    }

    /// Sets the client's scheme, which a trusted proxy names in the request.
    #[must_use]
    pub fn forwarded_proto(mut self, scheme: Scheme) -> Self {
        self.proxied_mut().scheme = Some(scheme);
        self
    }

    fn proxied_mut(&mut self) -> &mut Proxied {
        Arc::make_mut(&mut self.0).proxied.get_or_insert_default()
    }

    /// Sets the facts of a TLS handshake.
    #[must_use]
    pub fn secured(mut self, tls: Tls) -> Self {
        Arc::make_mut(&mut self.0).tls = Some(Box::new(tls));
        self
    }

    /// Returns the scheme that the client used: the one that a trusted proxy names, else that of the
    /// [hop](Self::hop_scheme).
    pub fn scheme(&self) -> Scheme {
        let named = self.0.proxied.as_ref().and_then(|proxied| proxied.scheme.clone());
        named.unwrap_or_else(|| self.hop_scheme())
    }

    /// Returns the scheme of the connection: `https` after a TLS handshake, else `http`.
    pub fn hop_scheme(&self) -> Scheme {
        if self.0.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// Returns the facts of the TLS handshake, if there was one.
    pub fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_deref()
    }

    /// Returns the addresses that a proxy in front sent by the PROXY protocol, if one did.
    pub fn proxy_addresses(&self) -> Option<&ProxyAddresses> {
        self.0.proxied.as_ref()?.addresses.as_ref()
    }

    /// Returns the client's IP address, if it has one: the one that a trusted proxy names in the request, else
    /// that of the [hop](Self::hop_ip).
    pub fn ip(&self) -> Option<IpAddr> {
        self.client().map(|(ip, _)| ip)
    }

    /// Returns the IP address of the sender of requests on this connection: the client, or an HTTP proxy in
    /// front. It is the address of the PROXY protocol, else that of the socket, if it has one.
    pub fn hop_ip(&self) -> Option<IpAddr> {
        self.hop_addr().map(|addr| addr.ip())
    }

    fn hop_addr(&self) -> Option<SocketAddr> {
        self.proxy_addresses().map(|a| a.client).or_else(|| self.remote_addr())
    }

    /// Returns the client's address, and its port if known.
    fn client(&self) -> Option<(IpAddr, Option<u16>)> {
        let named = self.0.proxied.as_ref().and_then(|proxied| proxied.client);
        named.or_else(|| self.hop_addr().map(|addr| (addr.ip(), Some(addr.port()))))
    }

    /// Returns the key by which limits count this client; `None` without an IP address. An IPv4 address, also
    /// an IPv4-mapped one (`::ffff:192.0.2.1`), is its own key. Of an IPv6 address the first `ipv6_prefix`
    /// bits are the key; [`IPV6_PREFIX`] is usual.
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

    /// Returns the client's address and port, if both are known: a proxy that [names](Self::forwarded_for) the
    /// client often leaves out its port.
    pub fn addr(&self) -> Option<SocketAddr> {
        let (ip, port) = self.client()?;
        Some(SocketAddr::new(ip, port?))
    }

    /// Returns whether the peer is on a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.0.socket == Socket::Unix
    }

    /// Returns the remote address of the socket, if there is one: the proxy's, if there is a proxy in front.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.0.socket {
            Socket::Tcp { remote, .. } => Some(remote),
            Socket::Unix | Socket::Memory => None,
        }
    }

    /// Returns the local address of the socket, if there is one.
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

/// The time by which a request must be answered, in its extensions.
///
/// Waits in a queue, in a worker and for an upstream observe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

#[cfg(test)]
mod tests;
