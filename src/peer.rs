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

/// Bits of an IPv6 address that make one client, unless set otherwise: 64, since a household or a
/// server is given at least so large a network and may change its address inside of it at will.
pub const IPV6_PREFIX: u8 = 64;

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

    /// Whom limits take the client for, where it has an address. An IPv4 address counts by itself,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_counts_whole_and_of_an_ipv6_address_its_network() {
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
