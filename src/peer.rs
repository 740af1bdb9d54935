//! Who is on the other side of a connection, how fast they must be, and until when an answer is of
//! use to them.

mod pace;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

pub use pace::{Pace, Rate};

/// The client of a connection; every request carries it in its extensions.
///
/// Cheap to clone: all requests of a connection share one.
///
/// ```
/// use vestibule::peer::Peer;
///
/// let peer = Peer::tcp("192.0.2.1:5000".parse().unwrap(), "192.0.2.9:80".parse().unwrap());
/// assert_eq!(peer.ip().unwrap().to_string(), "192.0.2.1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer(Arc<Ends>);

#[derive(Debug, PartialEq, Eq)]
enum Ends {
    Tcp { client: SocketAddr, here: SocketAddr },
    Unix,
    Memory,
}

impl Peer {
    /// A client that came by TCP, and the address it came to.
    pub fn tcp(client: SocketAddr, here: SocketAddr) -> Self {
        Self(Arc::new(Ends::Tcp { client, here }))
    }

    /// A client on a Unix socket.
    pub fn unix() -> Self {
        Self(Arc::new(Ends::Unix))
    }

    /// No client: bytes from memory, as in tests.
    pub fn memory() -> Self {
        Self(Arc::new(Ends::Memory))
    }

    /// The client's IP address, where it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.addr().map(|a| a.ip())
    }

    /// Whom limits take the client for, where it has an address: an IPv4 address, or the first 64
    /// bits of an IPv6 address, of which one client has all the others (RFC 4291 section 2.5.4).
    ///
    /// ```
    /// # use vestibule::peer::Peer;
    /// # let here = "[2001:db8::9]:80".parse().unwrap();
    /// let peer = Peer::tcp("[2001:db8:1:2:3:4:5:6]:5000".parse().unwrap(), here);
    /// assert_eq!(peer.network().unwrap().to_string(), "2001:db8:1:2::");
    /// ```
    pub fn network(&self) -> Option<IpAddr> {
        Some(match self.ip()?.to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// The client's address and port, where it has one.
    pub fn addr(&self) -> Option<SocketAddr> {
        match *self.0 {
            Ends::Tcp { client, .. } => Some(client),
            Ends::Unix | Ends::Memory => None,
        }
    }

    /// The address that the client connected to, where there is one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match *self.0 {
            Ends::Tcp { here, .. } => Some(here),
            Ends::Unix | Ends::Memory => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Ends::Tcp { client, .. } => client.fmt(f),
            Ends::Unix => f.write_str("unix"),
            Ends::Memory => f.write_str("memory"),
        }
    }
}

/// Until when the answer to a request is of use; carried in its extensions.
///
/// Time in a queue, in a worker and upstream all draw from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);
