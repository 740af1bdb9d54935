//! Version 2: a signature, the length, addresses in binary, and extensions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Fault, Header, Version, crc32c::crc32c};
use crate::peer::ProxyAddresses;

/// The first bytes of every header of version 2.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

/// Maximum length of a header: 4 KiB. The extensions for a TLS connection with the name of its certificate take some
/// hundred bytes.
pub const MAX_V2: usize = 4 << 10;

/// The type of the extension with the CRC32c of the header (section 2.2.3).
const CRC32C: u8 = 0x03;

/// Two addresses and two ports.
const INET: usize = 12;
const INET6: usize = 36;
const UNIX: usize = 216;

/// The extensions of a header: types and values, which are well-formed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tlvs(Bytes);

/// An extension: its type and its value.
pub type Tlv = (u8, Bytes);

impl Tlvs {
    /// Returns the extensions in order.
    pub fn iter(&self) -> impl Iterator<Item = Tlv> {
        let mut rest = self.0.clone();
        std::iter::from_fn(move || next_tlv(&mut rest).ok().flatten())
    }

    /// Returns the first value of this type.
    pub fn get(&self, kind: u8) -> Option<Bytes> {
        self.iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }
}

fn next_tlv(rest: &mut Bytes) -> Result<Option<Tlv>, Fault> {
    if rest.is_empty() {
        return Ok(None);
    }
    if rest.len() < 3 {
        return Err(Fault::Tlv);
    }
    let (kind, len) = (rest.get_u8(), usize::from(rest.get_u16()));
    if rest.len() < len { Err(Fault::Tlv) } else { Ok(Some((kind, rest.split_to(len)))) }
}

/// Parses a header whose signature was checked.
pub(super) fn parse(input: &mut BytesMut) -> Result<Option<Header>, Fault> {
    let Some(fixed) = input.first_chunk::<FIXED>() else { return Ok(None) };
    let [.., version_command, family_transport, len1, len0] = *fixed;
    let len = usize::from(u16::from_be_bytes([len1, len0]));
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Fault::Kind),
    };
    let addresses_len = match family_transport {
        0x00 => 0,
        0x11 => INET,
        0x21 => INET6,
        0x31 => UNIX,
        // The addresses of a local connection must be ignored.
        _ if is_local => 0,
        _ => return Err(Fault::Kind),
    };
    if FIXED + len > MAX_V2 || (!is_local && len < addresses_len) {
        return Err(Fault::Length);
    }
    if input.len() < FIXED + len {
        return Ok(None);
    }
    let header = input.split_to(FIXED + len).freeze();
    let mut rest = header.slice(FIXED..);
    let addresses = match addresses_len {
        _ if is_local => {
            // Nothing applies, and it need not be well-formed.
            return Ok(Some(Header {
                version: Version::V2,
                addresses: None,
                tlvs: Tlvs::default(),
            }));
        }
        INET => {
            let [client, destination] =
                [(); 2].map(|()| IpAddr::from(Ipv4Addr::from(rest.get_u32())));
            Some(with_ports(client, destination, &mut rest))
        }
        INET6 => {
            let [client, destination] =
                [(); 2].map(|()| IpAddr::from(Ipv6Addr::from(rest.get_u128())));
            Some(with_ports(client, destination, &mut rest))
        }
        // A Unix socket or unknown: there is no address of a client.
        len => {
            rest.advance(len);
            None
        }
    };
    let mut left = rest.clone();
    while let Some((kind, value)) = next_tlv(&mut left)? {
        if kind == CRC32C {
            check(&header, header.len() - left.len(), &value)?;
        }
    }
    Ok(Some(Header { version: Version::V2, addresses, tlvs: Tlvs(rest) }))
}

/// Compares the checksum `value`, which ends at `end`, with that of the header with zeros in its place.
fn check(header: &[u8], end: usize, value: &[u8]) -> Result<(), Fault> {
    let Ok(expected) = value.try_into().map(u32::from_be_bytes) else { return Err(Fault::Tlv) };
    let start = end - value.len();
    let found = crc32c(&[&header[..start], &[0; 4], &header[end..]]);
    if found == expected { Ok(()) } else { Err(Fault::Checksum) }
}

fn with_ports(client: IpAddr, destination: IpAddr, rest: &mut Bytes) -> ProxyAddresses {
    let client = SocketAddr::new(client, rest.get_u16());
    ProxyAddresses { client, destination: SocketAddr::new(destination, rest.get_u16()) }
}

/// Returns both addresses in one family, as both versions require: IPv4 with IPv6 is mapped to IPv6. Two mapped addresses,
/// those of an IPv4 client at a listener for both families, become IPv4.
pub(super) fn one_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (mapped(a), mapped(b)) }
}

pub(super) fn encode(addresses: Option<&ProxyAddresses>, tlvs: &[Tlv], out: &mut BytesMut) {
    out.put_slice(&SIGNATURE);
    let ips = addresses.map(|a| one_family(a.client.ip(), a.destination.ip()));
    let (command, family, addresses_len) = match ips {
        None => (0x20, 0x00, 0),
        Some((IpAddr::V4(_), _)) => (0x21, 0x11, INET),
        Some((IpAddr::V6(_), _)) => (0x21, 0x21, INET6),
    };
    out.put_slice(&[command, family]);
    let room = MAX_V2 - FIXED - addresses_len;
    let mut used = 0;
    let fits = |(_, value): &&Tlv| {
        used += 3 + value.len();
        used <= room
    };
    let tlvs: Vec<&Tlv> = tlvs.iter().take_while(fits).collect();
    let tlvs_len: usize = tlvs.iter().map(|(_, value)| 3 + value.len()).sum();
    out.put_u16(u16::try_from(addresses_len + tlvs_len).expect("at most MAX_V2"));
    if let (Some((from, to)), Some(addresses)) = (ips, addresses) {
        for ip in [from, to] {
            match ip {
                IpAddr::V4(ip) => out.put_slice(&ip.octets()),
                IpAddr::V6(ip) => out.put_slice(&ip.octets()),
            }
        }
        out.put_u16(addresses.client.port());
        out.put_u16(addresses.destination.port());
    }
    for (kind, value) in tlvs {
        out.put_u8(*kind);
        out.put_u16(u16::try_from(value.len()).expect("at most MAX_V2"));
        out.put_slice(value);
    }
}
