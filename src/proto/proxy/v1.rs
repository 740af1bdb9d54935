//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.9 40000 443` and CRLF.

use std::{fmt::Write, net::IpAddr, str::FromStr};

use bytes::BytesMut;

use super::{Fault, Header, Tlvs, Version};
use crate::peer::ProxyAddresses;

/// Maximum length of a line of version 1: 107 bytes, including CRLF.
pub const MAX_V1: usize = 107;

/// The first bytes of every header of version 1.
pub(super) const PREFIX: &[u8] = b"PROXY ";

pub(super) fn parse(input: &mut BytesMut) -> Result<Option<Header>, Fault> {
    let len = PREFIX.len().min(input.len());
    if input[..len] != PREFIX[..len] {
        return Err(Fault::Signature);
    }
    let window = &input[..input.len().min(MAX_V1)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() == MAX_V1 { Err(Fault::LineTooLong) } else { Ok(None) };
    };
    let line = input.split_to(end + 1).freeze();
    let line = line.strip_suffix(b"\r\n").ok_or(Fault::Line)?;
    let rest = line.strip_prefix(PREFIX).ok_or(Fault::Line)?;
    let rest = std::str::from_utf8(rest).map_err(|_| Fault::Line)?;
    let addresses = parse_addresses(rest)?;
    Ok(Some(Header { version: Version::V1, addresses, tlvs: Tlvs::default() }))
}

fn parse_addresses(text: &str) -> Result<Option<ProxyAddresses>, Fault> {
    let mut words = text.split(' ');
    let is_v4 = match words.next() {
        Some("TCP4") => true,
        Some("TCP6") => false,
        // The rest must be ignored.
        Some("UNKNOWN") => return Ok(None),
        _ => return Err(Fault::Line),
    };
    let mut word = || words.next().ok_or(Fault::Line);
    let (client, destination) = (address(word()?, is_v4)?, address(word()?, is_v4)?);
    let (from, to) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Fault::Line);
    }
    Ok(Some(ProxyAddresses {
        client: (client, from).into(),
        destination: (destination, to).into(),
    }))
}

fn address(text: &str, is_v4: bool) -> Result<IpAddr, Fault> {
    let address = IpAddr::from_str(text).map_err(|_| Fault::Line)?;
    if address.is_ipv4() == is_v4 { Ok(address) } else { Err(Fault::Line) }
}

/// Parses a decimal number without sign and leading zeros.
fn port(text: &str) -> Result<u16, Fault> {
    let is_plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().map_err(|_| Fault::Line) } else { Err(Fault::Line) }
}

pub(super) fn encode(addresses: Option<&ProxyAddresses>, out: &mut BytesMut) {
    let written = match addresses {
        None => out.write_str("PROXY UNKNOWN\r\n"),
        Some(ProxyAddresses { client, destination }) => {
            let (from, to) = super::v2::one_family(client.ip(), destination.ip());
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from_port, to_port) = (client.port(), destination.port());
            write!(out, "PROXY {family} {from} {to} {from_port} {to_port}\r\n")
        }
    };
    written.expect("a buffer that grows takes all");
}
