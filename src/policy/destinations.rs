//! `Destinations`: the hosts, ports and addresses to which clients may open tunnels.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use http::uri::Authority;

use crate::peer::Network;

/// The hosts, ports and addresses to which clients may open tunnels. Without a rule, none is allowed.
///
/// A destination is checked twice: its host and port before the name is resolved, and then each address before a
/// connection is made. So an attacker's name that resolves to `127.0.0.1` is refused.
///
/// ```
/// use vestibule::policy::destinations::Destinations;
///
/// let mut allowed = Destinations::new();
/// allowed.allow("*.example.com".parse()?, [443]);
/// assert!(allowed.allows(&"api.example.com:443".parse().unwrap()));
/// assert!(!allowed.allows(&"api.example.com:22".parse().unwrap()));
/// assert!(allowed.allows_address("93.184.216.34".parse().unwrap()));
/// assert!(!allowed.allows_address("10.0.0.1".parse().unwrap()));
/// # Ok::<(), vestibule::policy::destinations::InvalidHostPattern>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Destinations {
    rules: Vec<(HostPattern, Vec<u16>)>,
    networks: Vec<Network>,
}

impl Destinations {
    /// Creates rules that allow nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows these hosts on these ports.
    pub fn allow(&mut self, hosts: HostPattern, ports: impl IntoIterator<Item = u16>) {
        self.rules.push((hosts, ports.into_iter().collect()));
    }

    /// Allows the addresses of a network, in addition to [public](is_public) ones, for allowed hosts.
    pub fn allow_network(&mut self, network: Network) {
        self.networks.push(network);
    }

    /// Returns whether a rule allows this host and port; `false` without a port.
    pub fn allows(&self, target: &Authority) -> bool {
        let host = target.host();
        let host = host.strip_suffix('.').unwrap_or(host);
        let Some(port) = target.port_u16() else { return false };
        self.rules.iter().any(|(hosts, ports)| ports.contains(&port) && hosts.matches(host))
    }

    /// Returns whether a connection may be made to this address of an allowed host.
    pub fn allows_address(&self, ip: IpAddr) -> bool {
        is_public(ip) || self.networks.iter().any(|network| network.contains(ip))
    }
}

/// A pattern of hosts: `a.example`, `*.example` for all subdomains, `*` for all hosts, or an address: `192.0.2.1`,
/// `[2001:db8::1]`.
///
/// Case and a trailing dot are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Any,
    Exact(Box<str>),
    /// The suffix, with its dot.
    Below(Box<str>),
}

/// A text that is not a valid [`HostPattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a host pattern: expected a name, `*.` and a name, or `*`, without a port")]
pub struct InvalidHostPattern(String);

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match &self.0 {
            Kind::Any => true,
            Kind::Exact(name) => name.eq_ignore_ascii_case(host),
            Kind::Below(suffix) => {
                let (name, end) = (host.as_bytes(), suffix.as_bytes());
                name.len() > end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end)
            }
        }
    }
}

impl FromStr for HostPattern {
    type Err = InvalidHostPattern;

    fn from_str(text: &str) -> Result<Self, InvalidHostPattern> {
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let (name, is_below) = match name.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let is_v6 = || {
            let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            !is_below && address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        };
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if !is_v6() && !name.split('.').all(is_label) {
            return Err(InvalidHostPattern(text.to_owned()));
        }
        Ok(Self(if is_below {
            Kind::Below([".", name].concat().into())
        } else {
            Kind::Exact(name.into())
        }))
    }
}

/// Returns whether an address is reachable over the public internet. `false` for the blocks of the special-purpose
/// registries (RFC 6890): loopback, link-local, private, shared, reserved, documentation and multicast. A public IPv6
/// address is in 2000::/3, not in such a block, and does not contain an IPv4 address (6to4, Teredo).
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || matches!((a, b, c), (0 | 224.., ..) | (192, 0, 0) | (192, 88, 99))
                || matches!((a, b), (100, 64..=127) | (198, 18..=19)))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            (0x2000..=0x3fff).contains(&a)
                && !matches!(
                    (a, b),
                    (0x2001, 0..=0x1ff | 0xdb8) | (0x2002, _) | (0x3fff, 0..=0xfff)
                )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(hosts: &str, port: u16) -> Destinations {
        let mut allowed = Destinations::new();
        allowed.allow(hosts.parse().unwrap(), [port]);
        allowed
    }

    #[test]
    fn host_is_allowed_by_name_and_port() {
        for (hosts, target, expected) in [
            ("a.example", "A.Example:443", true),
            ("a.example", "a.example.:443", true),
            ("a.example.", "a.example:443", true),
            ("a.example", "a.example:80", false),
            ("a.example", "b.a.example:443", false),
            ("a.example", "a.example", false),
            ("*.example", "a.example:443", true),
            ("*.example", "b.a.EXAMPLE:443", true),
            ("*.example", "example:443", false),
            ("*.example", ".example:443", false),
            ("*.example", "aexample:443", false),
            ("*", "anything:443", true),
            ("192.0.2.1", "192.0.2.1:443", true),
            ("[::1]", "[::1]:443", true),
            ("[::1]", "[::2]:443", false),
        ] {
            let target: Authority = target.parse().unwrap();
            assert_eq!(allowed(hosts, 443).allows(&target), expected, "{hosts} {target}");
        }
        assert!(!Destinations::new().allows(&"a:443".parse().unwrap()));
    }

    #[test]
    fn pattern_that_is_no_host_is_an_error() {
        for text in
            ["", ".", "*.", "a..b", "a.*", "**", "*a.b", "a:443", "a/b", "::1", "*.[::1]", "[a]"]
        {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        for (ip, expected) in [
            ("1.1.1.1", true),
            ("172.32.0.1", true),
            ("100.128.0.1", true),
            ("198.20.0.1", true),
            ("223.255.255.255", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("192.0.0.8", false),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("192.168.0.1", false),
            ("198.18.0.1", false),
            ("198.51.100.1", false),
            ("203.0.113.1", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:4700::1111", true),
            ("2001:4860::8888", true),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:1.1.1.1", true),
            ("::127.0.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("fc00::1", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("2002:7f00:1::1", false),
            ("3fff::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn network_is_allowed_by_name() {
        let mut allowed = allowed("*", 443);
        allowed.allow_network("127.0.0.0/8".parse().unwrap());
        assert!(allowed.allows_address("127.0.0.1".parse().unwrap()));
        assert!(allowed.allows_address("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!allowed.allows_address("10.0.0.1".parse().unwrap()));
        assert!(!allowed.allows_address("::1".parse().unwrap()));
    }
}
