//! `ProxyProtocol`: the senders whose PROXY headers are read.

use super::Config;
use crate::peer::{Network, Peer};

/// The senders of the PROXY protocol that a server trusts: load balancers in front that forward whole connections.
///
/// - A connection from a trusted sender must begin with exactly one header of version 1 or 2, before TLS. The header
///   is not optional: otherwise a client could forge one through a sender that adds none. Its addresses become those
///   of the client ([`Peer::ip`], [`Peer::proxy_addresses`]) for the log, for limits and for forwarded fields. After
///   a header without addresses (`LOCAL`, `UNKNOWN`, a Unix socket) those of the socket apply. Extensions (TLVs) are
///   ignored, except for the checksum, which is verified.
/// - A connection from any other address is refused if it begins with a header.
/// - The header must be complete within the [time of the first head](crate::proto::h1::Limits::head_timeout), which it
///   shares with the TLS handshake and the first request, and within [`MAX_V1`](crate::proto::proxy::MAX_V1) or
///   [`MAX_V2`](crate::proto::proxy::MAX_V2) bytes.
/// - A refused connection is closed, after a response of 400 if the server has no TLS. The log has a line under the
///   target `vestibule::proxy_protocol`: a warning for a trusted sender.
///
/// ```
/// use vestibule::conn::{Config, ProxyProtocol};
///
/// let senders = ProxyProtocol::new().trust("10.0.0.0/24".parse()?).trust("2001:db8::1".parse()?);
/// let config = Config::new().proxy_protocol(senders);
/// # drop(config);
/// # Ok::<(), vestibule::peer::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct ProxyProtocol {
    networks: Vec<Network>,
    trusts_unix: bool,
}

impl ProxyProtocol {
    /// Trusts no sender: every connection with a header is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts senders with an address in this network.
    #[must_use]
    pub fn trust(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    /// Trusts every peer on a Unix socket. Off by default.
    #[must_use]
    pub fn trust_unix(mut self) -> Self {
        self.trusts_unix = true;
        self
    }

    /// Returns whether the peer of a socket is a trusted sender.
    pub(crate) fn is_trusted(&self, peer: &Peer) -> bool {
        match peer.remote_addr() {
            Some(addr) => self.networks.iter().any(|network| network.contains(addr.ip())),
            None => self.trusts_unix && peer.is_unix(),
        }
    }
}

impl Config {
    /// Reads a PROXY header in front of each connection from the trusted senders. Default: none is read.
    #[must_use]
    pub fn proxy_protocol(mut self, senders: ProxyProtocol) -> Self {
        self.proxy_protocol = Some(senders);
        self
    }

    /// Returns whether the connections of this peer begin with a PROXY header.
    pub(crate) fn expects_proxy_header(&self, peer: &Peer) -> bool {
        self.proxy_protocol.as_ref().is_some_and(|senders| senders.is_trusted(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_trusted_by_network_and_unix_sockets_by_option() {
        let senders = ProxyProtocol::new().trust("10.0.0.0/8".parse().unwrap());
        let peer = |addr: &str| Peer::tcp(addr.parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        assert!(senders.is_trusted(&peer("10.1.2.3:9")));
        assert!(senders.is_trusted(&peer("[::ffff:10.1.2.3]:9")));
        assert!(!senders.is_trusted(&peer("11.0.0.1:9")));
        assert!(!senders.is_trusted(&Peer::unix()) && !senders.is_trusted(&Peer::memory()));
        let senders = senders.trust_unix();
        assert!(senders.is_trusted(&Peer::unix()) && !senders.is_trusted(&Peer::memory()));
        assert!(!ProxyProtocol::new().is_trusted(&peer("127.0.0.1:9")));
    }
}
