//! Whose request is it? The key that a limit for each client counts by.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use crate::{Request, peer::Peer};

/// Bits of an IPv6 address that make one client, unless set otherwise: 64, since a household or a
/// server is given at least so large a network and may change its address inside of it at will.
pub const IPV6_PREFIX: u8 = 64;

/// Tells a request's key; `None` where the limit does not apply.
pub(super) type KeyFn<K> = Arc<dyn Fn(&Request) -> Option<K> + Send + Sync>;

/// The network of a request's client, from the [`Peer`] in its extensions.
///
/// An IPv4 address counts by itself, also one that came by an IPv6 socket (`::ffff:192.0.2.1`). Of an
/// IPv6 address only the first `ipv6_prefix` bits count. `None` without a peer, and for one without
/// an IP address: Unix sockets, memory.
///
/// ```
/// use vestibule::{Body, Request, layer::limit::client_net, peer::Peer};
///
/// let mut request = Request::new(Body::empty());
/// assert_eq!(client_net(&request, 64), None);
/// let here = "[2001:db8::1]:80".parse().unwrap();
/// let there = "[2001:db8:1:2:3:4:5:6]:5000".parse().unwrap();
/// request.extensions_mut().insert(Peer::tcp(there, here));
/// assert_eq!(client_net(&request, 64).unwrap().to_string(), "2001:db8:1:2::");
/// ```
pub fn client_net(request: &Request, ipv6_prefix: u8) -> Option<IpAddr> {
    let ip = request.extensions().get::<Peer>()?.ip()?;
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let rest = 128u32.saturating_sub(ipv6_prefix.into());
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    })
}

pub(super) fn by_net(ipv6_prefix: u8) -> KeyFn<IpAddr> {
    Arc::new(move |request| client_net(request, ipv6_prefix))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::from_ip, *};

    fn net(ip: &str, prefix: u8) -> String {
        client_net(&from_ip(ip), prefix).unwrap().to_string()
    }

    #[test]
    fn an_ipv4_address_counts_whole_and_of_an_ipv6_address_its_network() {
        for prefix in [0, 64, 128] {
            assert_eq!(net("192.0.2.1", prefix), "192.0.2.1");
            assert_eq!(net("::ffff:192.0.2.1", prefix), "192.0.2.1");
        }
        let ip = "2001:db8:a:b:c:d:e:ffff";
        assert_eq!(net(ip, 0), "::");
        assert_eq!(net(ip, 56), "2001:db8:a::");
        assert_eq!(net(ip, 64), "2001:db8:a:b::");
        assert_eq!(net(ip, 127), "2001:db8:a:b:c:d:e:fffe");
        assert_eq!(net(ip, 128), ip);
        assert_eq!(net(ip, 255), ip);
    }

    #[test]
    fn who_has_no_ip_has_no_key() {
        for peer in [Peer::unix(), Peer::memory()] {
            let mut request = Request::default();
            request.extensions_mut().insert(peer);
            assert_eq!(client_net(&request, 64), None);
        }
        assert_eq!(client_net(&Request::default(), 64), None);
    }
}
