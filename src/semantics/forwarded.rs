//! Fields that name the client, received from proxies and sent to upstream servers: `Forwarded` (RFC 7239)
//! and `X-Forwarded-*`.

#[cfg_attr(
    not(all(feature = "upstream", feature = "process")),
    allow(dead_code, reason = "for subrequests, and the gateways that forward them")
)]
mod authorized;
mod client;

use std::{
    io::{Cursor, Write},
    net::{IpAddr, Ipv4Addr},
};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED, uri::Scheme};

use super::lookalike;
use crate::peer::Peer;

#[cfg_attr(not(feature = "server"), allow(unused_imports, reason = "for subrequests"))]
pub(crate) use authorized::{AuthorizedRequest, X_FORWARDED_METHOD, X_FORWARDED_URI};
pub use client::{
    ClientField, InvalidClientField, MAX_BYTES, MAX_HOPS, NamedClient, remove_client_fields,
    x_forwarded_proto,
};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The treatment of forwarding fields that the request already has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Trust {
    /// They are removed, and new ones are added: the peer is any client of the internet. This removes
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`, `X-Client-IP` and `True-Client-IP`.
    #[default]
    Replace,
    /// The [hop's address](Peer::hop_ip) is appended to their lists: the peer is a trusted proxy. Its
    /// `X-Forwarded-Proto` and `X-Forwarded-Host` stay, since they describe the client.
    ///
    /// If not all connections come from such a proxy, put a
    /// [`TrustedProxyLayer`](crate::layer::TrustedProxyLayer) outside, which removes the fields of other
    /// peers.
    Append,
    /// They stay unchanged, and none is added.
    Keep,
}

/// The forwarding fields of requests to upstream servers, and the treatment of those that a request already
/// has.
///
/// Call [`hop::strip`](super::hop::strip) first, so that a client cannot remove the added fields by `Connection`.
/// In every mode the field `Proxy` is removed: it has no meaning in HTTP, and CGI turns it into the variable `HTTP_PROXY` (the
/// "httpoxy" attack). All [lookalikes](super::lookalike) of these fields and of the fields that frame a message are removed,
/// too.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use vestibule::{peer::Peer, semantics::forwarded::ForwardedFields};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
/// let host = HeaderValue::from_static("example.com");
/// let peer = Peer::tcp("192.0.2.1:5000".parse().unwrap(), "192.0.2.9:80".parse().unwrap());
/// ForwardedFields::new().apply(&mut headers, &peer, Some(&host));
/// assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
/// assert_eq!(headers["x-forwarded-proto"], "http");
/// assert_eq!(headers["x-forwarded-host"], "example.com");
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardedFields {
    trust: Trust,
    rfc7239: bool,
}

impl ForwardedFields {
    /// Maximum number of fields that [`apply`](Self::apply) adds.
    const MAX_ADDED: usize = 4;

    /// Creates options with [`Trust::Replace`] and without `Forwarded`, which few applications read.
    pub const fn new() -> Self {
        Self { trust: Trust::Replace, rfc7239: false }
    }

    /// Sets the treatment of fields that the request already has. Defaults to [`Trust::Replace`].
    #[must_use]
    pub const fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Adds `Forwarded` too (RFC 7239). Off by default. With [`Trust::Append`] an existing `Forwarded` is
    /// always continued, since its list would lack one hop otherwise.
    #[must_use]
    pub const fn rfc7239(mut self, on: bool) -> Self {
        self.rfc7239 = on;
        self
    }

    /// Removes the fields that the peer is not trusted with from `headers`, and adds new ones: the address
    /// of the client (with [`Trust::Append`] of the hop), if it is known; its scheme (any but `https`
    /// counts as `http`); and `host`, the host that it requested.
    pub fn apply(&self, headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
        self.apply_to(headers, peer, host.cloned());
    }

    /// Like [`apply`](Self::apply), but takes ownership of `host`.
    pub(super) fn apply_to(&self, headers: &mut HeaderMap, peer: &Peer, host: Option<HeaderValue>) {
        remove_untrusted(headers, self.trust);
        if self.trust == Trust::Keep {
            return;
        }
        // Grow the map once instead of at each field. Beyond its maximum the inserts below panic, as those
        // of any layer would; a head from the network is far smaller.
        let _ = headers.try_reserve(Self::MAX_ADDED);
        // With `Replace` all of them have been removed.
        let is_kept = |headers: &HeaderMap, name: &HeaderName| {
            self.trust == Trust::Append && headers.contains_key(name)
        };
        // With `Append` the lists already contain the client, if the hop is not the client.
        let (ip, scheme) = match self.trust {
            Trust::Append => (peer.hop_ip(), peer.hop_scheme()),
            Trust::Replace | Trust::Keep => (peer.ip(), peer.scheme()),
        };
        let client = ip.map(AddressText::new);
        let is_continued = is_kept(headers, &FORWARDED);
        if self.rfc7239 || is_continued {
            let mut element = BytesMut::new();
            write_element(client.as_ref(), host.as_ref(), proto(&scheme), &mut element);
            insert(headers, &FORWARDED, &element, is_continued);
        }
        if let Some(client) = &client {
            let is_continued = is_kept(headers, &X_FORWARDED_FOR);
            insert(headers, &X_FORWARDED_FOR, client.address(), is_continued);
        }
        // For an absent field `append` costs half of `insert`.
        if !is_kept(headers, &X_FORWARDED_PROTO) {
            headers.append(&X_FORWARDED_PROTO, HeaderValue::from_static(proto(&peer.scheme())));
        }
        if let Some(host) = host
            && !is_kept(headers, &X_FORWARDED_HOST)
        {
            headers.append(&X_FORWARDED_HOST, host);
        }
    }
}

/// Adds a field; with `is_continued`, as the last element of the list in the existing fields of this name.
fn insert(headers: &mut HeaderMap, name: &HeaderName, element: &[u8], is_continued: bool) {
    const VALID: &str = "made of field values and visible ASCII";
    if !is_continued {
        headers.append(name, HeaderValue::from_bytes(element).expect(VALID));
        return;
    }
    let mut list = BytesMut::new();
    for before in headers.get_all(name).iter().filter(|v| !v.is_empty()) {
        list.put_slice(before.as_bytes());
        list.put_slice(b", ");
    }
    list.put_slice(element);
    headers.insert(name, HeaderValue::from_maybe_shared(list.freeze()).expect(VALID));
}

fn proto(scheme: &Scheme) -> &'static str {
    if *scheme == Scheme::HTTPS { "https" } else { "http" }
}

/// Removes the fields that the peer is not trusted with under `trust`. One pass over the names; a request
/// without such fields, the usual case, allocates nothing.
fn remove_untrusted(headers: &mut HeaderMap, trust: Trust) {
    client::remove_fields_if(headers, |name| {
        name == b"proxy"
            || trust == Trust::Replace && is_client_field(name)
            || lookalike::is_lookalike_name(name)
    });
}

/// Returns whether this is a field that names the client, also after CGI has folded `_` and `.` to `-`.
pub(super) fn is_client_field(name: &[u8]) -> bool {
    match name.first() {
        Some(b'f') => name == b"forwarded",
        Some(b't') => folds_to(name, b"true-client-ip"),
        Some(b'x') => {
            const PREFIX: &[u8] = b"x-forwarded";
            let prefixed = name.get(..PREFIX.len()).is_some_and(|n| folds_to(n, PREFIX));
            prefixed || folds_to(name, b"x-real-ip") || folds_to(name, b"x-client-ip")
        }
        _ => false,
    }
}

/// Returns whether `name` is `known`, or is spelled with `_` or `.` for `-`.
fn folds_to(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && name.iter().zip(known).all(|(&n, &k)| n == k || k == b'-' && matches!(n, b'_' | b'.'))
}

/// An address as text, on the stack.
struct AddressText {
    /// The address in brackets and quotes, which contains the bare address of both versions.
    text: [u8; Self::MAX],
    end: usize,
    is_v6: bool,
}

impl AddressText {
    /// The longest IPv6 address, `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, is 45 bytes;
    /// quotes and brackets are 4 more.
    const MAX: usize = 45 + 4;

    fn new(ip: IpAddr) -> Self {
        // A dual-stack listener reports a client on IPv4 as ::ffff:192.0.2.1.
        let ip = ip.to_canonical();
        let mut text = [0; Self::MAX];
        text[..2].copy_from_slice(b"\"[");
        let len = match ip {
            IpAddr::V4(ip) => write_v4(ip, &mut text[2..]),
            IpAddr::V6(ip) => {
                let mut out = Cursor::new(&mut text[2..]);
                write!(out, "{ip}").expect("an address is at most 45 bytes");
                usize::try_from(out.position()).expect("the buffer is 49 bytes")
            }
        };
        let end = 2 + len;
        text[end..end + 2].copy_from_slice(b"]\"");
        Self { text, end, is_v6: ip.is_ipv6() }
    }

    /// Returns the bare address.
    fn address(&self) -> &[u8] {
        &self.text[2..self.end]
    }

    /// Returns the node identifier: an IPv6 address in brackets, and so in quotes (RFC 7239 section 6).
    fn node(&self) -> &[u8] {
        if self.is_v6 { &self.text[..self.end + 2] } else { self.address() }
    }
}

/// Writes dotted decimal and returns its length, at a tenth of the cost of the standard formatting.
fn write_v4(ip: Ipv4Addr, out: &mut [u8]) -> usize {
    let mut at = 0;
    for (n, octet) in ip.octets().into_iter().enumerate() {
        if n > 0 {
            out[at] = b'.';
            at += 1;
        }
        for (unit, digit) in [(100, octet / 100), (10, octet / 10 % 10), (1, octet % 10)] {
            if octet >= unit || unit == 1 {
                out[at] = b'0' + digit;
                at += 1;
            }
        }
    }
    at
}

/// Writes the element of this hop in a `Forwarded` list (RFC 7239 section 4).
fn write_element(
    client: Option<&AddressText>,
    host: Option<&HeaderValue>,
    proto: &str,
    out: &mut BytesMut,
) {
    out.put_slice(b"for=");
    // RFC 7239 section 6.2: a peer without an address, as on a Unix socket, is "unknown".
    out.put_slice(client.map_or(b"unknown", AddressText::node));
    if let Some(host) = host {
        out.put_slice(b";host=");
        write_value(out, host.as_bytes());
    }
    out.put_slice(b";proto=");
    out.put_slice(proto.as_bytes());
}

/// Writes a token unchanged, and any other value as a quoted string (RFC 9110 section 5.6.4).
fn write_value(out: &mut BytesMut, value: &[u8]) {
    if !value.is_empty() && value.iter().all(|&b| is_token(b)) {
        out.put_slice(value);
        return;
    }
    out.put_u8(b'"');
    for &b in value {
        if matches!(b, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(b);
    }
    out.put_u8(b'"');
}

/// Returns whether it is a `tchar` (RFC 9110 section 5.6.2).
pub(super) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests;
