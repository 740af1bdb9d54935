//! Who is on the other side of a connection, how fast they must be, and until when an answer is of
//! use to them.

mod pace;

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

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
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        self.addr().map(|a| a.ip())
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
