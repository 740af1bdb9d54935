//! The PROXY protocol, versions 1 and 2: the addresses of a connection, sent in front of its bytes.
//!
//! The protocol is defined in HAProxy's `doc/proxy-protocol.txt`. A receiver must require a header from trusted peers,
//! and must not accept one from others: it is neither optional nor detected.

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use bytes::{Bytes, BytesMut};

use crate::peer::ProxyAddresses;

pub use v1::MAX_V1;
pub use v2::{MAX_V2, Tlv, Tlvs};

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// A binary header with extensions.
    V2,
}

/// A header that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The version.
    pub version: Version,
    /// The addresses of the proxied connection. `None` if the sender does not know them, or if it connects on its own
    /// behalf, for example for a health check: then those of the socket apply.
    pub addresses: Option<ProxyAddresses>,
    /// The extensions of version 2.
    pub tlvs: Tlvs,
}

/// A header that is not valid. The connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first bytes are the signature of neither version.
    #[error("not a PROXY header")]
    Signature,
    /// The line of version 1 is malformed.
    #[error("malformed PROXY line")]
    Line,
    /// The line has no end within [`MAX_V1`] bytes.
    #[error("PROXY line too long")]
    LineTooLong,
    /// The version, command, family or transport is unknown, or is not of a stream.
    #[error("unknown command or family of a PROXY header")]
    Kind,
    /// The header is shorter than its addresses, or longer than [`MAX_V2`].
    #[error("PROXY header has a wrong length")]
    Length,
    /// An extension exceeds the header, or the checksum does not have four bytes.
    #[error("malformed extension of a PROXY header")]
    Tlv,
    /// The checksum among the extensions is not that of the header.
    #[error("wrong checksum of a PROXY header")]
    Checksum,
}

/// Parses a header and removes it from the front of `input`. Returns `None` if more bytes are needed.
///
/// ```
/// use bytes::BytesMut;
/// use vestibule::proto::proxy;
///
/// let mut input = BytesMut::from("PROXY TCP4 192.0.2.1 192.0.2.9 40000 443\r\nGET / ");
/// let header = proxy::parse(&mut input)?.expect("it is complete");
/// assert_eq!(header.addresses.unwrap().client.to_string(), "192.0.2.1:40000");
/// assert_eq!(&input[..], b"GET / ");
/// # Ok::<(), proxy::Fault>(())
/// ```
///
/// # Errors
/// A [`Fault`] as soon as no valid header can begin with these bytes.
pub fn parse(input: &mut BytesMut) -> Result<Option<Header>, Fault> {
    let len = v2::SIGNATURE.len().min(input.len());
    if input[..len] == v2::SIGNATURE[..len] {
        // A single CR can only begin version 2.
        return if len < v2::SIGNATURE.len() { Ok(None) } else { v2::parse(input) };
    }
    v1::parse(input)
}

/// Returns whether `input` begins like a header of either version; `None` if more bytes are needed. HTTP requests and
/// TLS handshakes do not.
///
/// ```
/// use vestibule::proto::proxy;
///
/// assert_eq!(proxy::starts_header(b"PROXY TCP4 192.0.2.1"), Some(true));
/// assert_eq!(proxy::starts_header(b"P"), None);
/// assert_eq!(proxy::starts_header(b"POST / HTTP/1.1\r\n"), Some(false));
/// ```
pub fn starts_header(input: &[u8]) -> Option<bool> {
    let mut needs_more = false;
    for start in [v1::PREFIX, &v2::SIGNATURE] {
        let len = start.len().min(input.len());
        if input[..len] == start[..len] {
            if len == start.len() {
                return Some(true);
            }
            needs_more = true;
        }
    }
    if needs_more { None } else { Some(false) }
}

/// Encodes a header. Without addresses it states that they are unknown (version 1), or that the sender connects on
/// its own behalf (version 2): like HAProxy, since receivers may reject an unknown family.
///
/// ```
/// use bytes::BytesMut;
/// use vestibule::{peer::ProxyAddresses, proto::proxy};
///
/// let mut out = BytesMut::new();
/// let addresses = ProxyAddresses {
///     client: "192.0.2.1:40000".parse()?,
///     destination: "192.0.2.9:443".parse()?,
/// };
/// proxy::encode(proxy::Version::V1, Some(&addresses), &mut out);
/// assert_eq!(&out[..], b"PROXY TCP4 192.0.2.1 192.0.2.9 40000 443\r\n");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
pub fn encode(version: Version, addresses: Option<&ProxyAddresses>, out: &mut BytesMut) {
    match version {
        Version::V1 => v1::encode(addresses, out),
        Version::V2 => v2::encode(addresses, &[], out),
    }
}

/// Encodes a header of version 2 with extensions. The first extension that would make it longer than [`MAX_V2`], and
/// all after it, are omitted.
pub fn encode_with_tlvs(
    addresses: Option<&ProxyAddresses>,
    tlvs: &[(u8, Bytes)],
    out: &mut BytesMut,
) {
    v2::encode(addresses, tlvs, out);
}
