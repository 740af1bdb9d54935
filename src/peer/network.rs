//! `Network`: a range of IP addresses.

use std::{fmt, net::IpAddr, str::FromStr};

/// A range of IP addresses in CIDR notation (RFC 4632, RFC 4291 section 2.3): `10.0.0.0/8`,
/// `2001:db8::/32`, or one address.
///
/// An IPv4-mapped IPv6 address (`::ffff:192.0.2.1`) counts as the IPv4 address.
///
/// ```
/// use vestibule::peer::Network;
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(network.contains("10.1.2.3".parse().unwrap()));
/// assert!(network.contains("::ffff:10.1.2.3".parse().unwrap()));
/// assert!(!network.contains("11.0.0.0".parse().unwrap()));
/// # Ok::<(), vestibule::peer::InvalidNetwork>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// The first address.
    address: IpAddr,
    prefix: u32,
}

/// A text is not a valid [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a network: {reason}")]
pub struct InvalidNetwork {
    text: String,
    reason: &'static str,
}

impl Network {
    /// Returns whether `ip` is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                (own.to_bits() ^ ip.to_bits()).leading_zeros() >= self.prefix
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                (own.to_bits() ^ ip.to_bits()).leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }

    /// Returns the length of the prefix in bits.
    pub fn prefix_len(&self) -> u32 {
        self.prefix
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| "expected an IP address, as in 10.0.0.0/8")?;
        let Some(prefix) = prefix else { return Ok(ip.into()) };
        if ip != ip.to_canonical() {
            return Err("write an IPv4-mapped network as an IPv4 network");
        }
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        // `u32::from_str` accepts a sign.
        let is_number = prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|&prefix| is_number && prefix <= bits);
        let prefix = prefix.ok_or("the prefix is longer than the address, or not a number")?;
        let zeros = match ip {
            IpAddr::V4(ip) => ip.to_bits().trailing_zeros(),
            IpAddr::V6(ip) => ip.to_bits().trailing_zeros(),
        };
        // Either the address or the prefix is probably a mistake.
        if zeros < bits - prefix {
            return Err("the address has bits set after the prefix");
        }
        Ok(Self { address: ip, prefix })
    }
}

/// Creates the network of this address alone.
impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        let address = ip.to_canonical();
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        Self::parse(text).map_err(|reason| InvalidNetwork { text: text.to_owned(), reason })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_contains_addresses_with_its_prefix() {
        let cases = [
            ("0.0.0.0/0", "255.1.2.3", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::ffff:192.0.2.1", false),
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("192.0.2.128/25", "192.0.2.127", false),
            ("192.0.2.128/25", "::ffff:192.0.2.200", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1/32", "192.0.2.0", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8::/33", "2001:db8:7fff::", true),
            ("2001:db8::/33", "2001:db8:8000::", false),
            ("::1", "::1", true),
            ("::1/128", "::", false),
        ];
        for (network, ip, want) in cases {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(ip.parse().unwrap()), want, "{ip} in {network}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn ambiguous_networks_are_refused() {
        for text in [
            "",
            "/",
            "/8",
            "10/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0.1/8",
            "010.0.0.0/8",
            "::/129",
            "2001:db8::1/64",
            "::ffff:10.0.0.0/104",
            "localhost",
            " 10.0.0.0/8",
            "10.0.0.0/ 8",
            "fe80::%1/64",
            "10.0.0.0/4294967304",
        ] {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("'{text}' is not a network: ")));
        }
    }
}
