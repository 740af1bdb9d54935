//! Requests for a host whose client certificates the connection's handshake did not ask for.

use http::{HeaderMap, header::HOST};

use super::Config;
use crate::peer::Peer;

/// Returns whether a request must be answered 421 (RFC 9110 section 15.5.20): its host asks for client
/// certificates, and the handshake named another host. Otherwise `Host: admin.example` on a connection to
/// `www.example` would pass by that check. A request without `Host`, which HTTP/1.0 allows, is for the default host, as
/// a handshake without a name is.
pub(super) fn is_misdirected(config: &Config, peer: &Peer, headers: &HeaderMap) -> bool {
    let (Some(tls), Some(facts)) = (&config.tls, peer.tls()) else { return false };
    // A host that is not text is refused by the protocol.
    let host = headers.get(HOST).map_or(Ok(""), |host| host.to_str());
    host.is_ok_and(|host| !tls.is_authoritative(facts, without_port(host)))
}

/// Returns the host of `host:port`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_removed_from_names_and_addresses() {
        for (host, name) in
            [("a", "a"), ("a:443", "a"), ("a:", "a"), ("[::1]:443", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(without_port(host), name);
        }
    }
}
