//! Who the client is, told to the server behind us: `Forwarded` (RFC 7239) and `X-Forwarded-*`.

use std::{
    io::{Cursor, Write},
    net::{IpAddr, Ipv4Addr},
};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED, uri::Scheme};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What becomes of forwarding fields that are in the request already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Trust {
    /// They are dropped and ours written: the peer is any client of the internet. All of
    /// `Forwarded`, `X-Forwarded-*`, `X-Real-IP`, `X-Client-IP` and `True-Client-IP` go, also
    /// spelled with `_` or `.` for `-`, which CGI-like applications read as the same names.
    #[default]
    Replace,
    /// The peer's address is added to their lists: the peer is a proxy of ours, in front of us.
    /// Its `X-Forwarded-Proto` and `X-Forwarded-Host` stay, as it has seen the client.
    Append,
    /// They stay as they are and nothing is written.
    Keep,
}

/// Writes the forwarding fields of a request on its way to a server behind us.
///
/// [`hop::strip`](super::hop::strip) comes first, so that a client cannot have our fields removed.
/// In every mode the field `Proxy` is dropped: it has no meaning in HTTP, and CGI-like
/// applications take it for their `HTTP_PROXY` variable (the "httpoxy" attack).
///
/// ```
/// use bytes::BytesMut;
/// use http::{HeaderMap, HeaderValue, uri::Scheme};
/// use vestibule::semantics::forwarded::Forward;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
/// let host = HeaderValue::from_static("example.com");
/// let ip = "192.0.2.1".parse().unwrap();
/// let mut lines = BytesMut::new();
/// Forward::new().write(&mut headers, Some(ip), &Scheme::HTTPS, Some(&host), &mut lines);
/// assert!(headers.is_empty());
/// assert_eq!(
///     lines,
///     "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: https\r\nx-forwarded-host: example.com\r\n",
/// );
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Forward {
    trust: Trust,
    rfc7239: bool,
}

impl Forward {
    /// [`Trust::Replace`], and no `Forwarded`, which few applications read.
    pub const fn new() -> Self {
        Self { trust: Trust::Replace, rfc7239: false }
    }

    /// Sets what becomes of fields that are there already.
    #[must_use]
    pub const fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Writes `Forwarded` too (RFC 7239). With [`Trust::Append`] a `Forwarded` that is there is
    /// continued in any case, lest its list be one hop short.
    #[must_use]
    pub const fn rfc7239(mut self, on: bool) -> Self {
        self.rfc7239 = on;
        self
    }

    /// Drops from `headers` what the peer has no right to say, and writes our fields to `out` as
    /// whole field lines: the peer's address if it has one, the scheme it used (anything but
    /// `https` counts as `http`), and the host it asked for.
    ///
    /// They are lines, not entries of the map, since they are made anew for each request and are
    /// next written to a connection: a map would grow for them, and be taken apart again.
    pub fn write(
        &self,
        headers: &mut HeaderMap,
        ip: Option<IpAddr>,
        scheme: &Scheme,
        host: Option<&HeaderValue>,
        out: &mut BytesMut,
    ) {
        drop_untrusted(headers, self.trust);
        if self.trust == Trust::Keep {
            return;
        }
        let client = ip.map(Client::new);
        let proto = if *scheme == Scheme::HTTPS { "https" } else { "http" };
        if self.rfc7239 || self.trust == Trust::Append && headers.contains_key(&FORWARDED) {
            put_name(&FORWARDED, headers, out);
            put_element(client.as_ref(), host, proto, out);
            out.put_slice(b"\r\n");
        }
        if let Some(client) = &client {
            put_name(&X_FORWARDED_FOR, headers, out);
            out.put_slice(client.bare());
            out.put_slice(b"\r\n");
        }
        let theirs = |name| self.trust == Trust::Append && headers.contains_key(name);
        if !theirs(&X_FORWARDED_PROTO) {
            put_line(&X_FORWARDED_PROTO, proto.as_bytes(), out);
        }
        if let Some(host) = host
            && !theirs(&X_FORWARDED_HOST)
        {
            put_line(&X_FORWARDED_HOST, host.as_bytes(), out);
        }
    }
}

/// A whole field line.
fn put_line(name: &HeaderName, value: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// The beginning of a line: the name, and the list that is in `headers` already, which moves here,
/// so that it stays one list.
fn put_name(name: &HeaderName, headers: &mut HeaderMap, out: &mut BytesMut) {
    out.put_slice(name.as_str().as_bytes());
    out.put_slice(b": ");
    if headers.contains_key(name) {
        for before in headers.get_all(name).iter().filter(|v| !v.is_empty()) {
            out.put_slice(before.as_bytes());
            out.put_slice(b", ");
        }
        headers.remove(name);
    }
}

/// Drops what the peer has no right to say under `trust`. One pass over the names; a request
/// without such fields, which is nearly every one, allocates nothing.
fn drop_untrusted(headers: &mut HeaderMap, trust: Trust) {
    let unwanted = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        name == b"proxy" || trust == Trust::Replace && speaks_of_the_client(name)
    };
    let names: Vec<HeaderName> = headers.keys().filter(|n| unwanted(n)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Is this, after the folding of CGI, a field that says who the client is?
fn speaks_of_the_client(name: &[u8]) -> bool {
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

fn folds_to(name: &[u8], known: &[u8]) -> bool {
    name.len() == known.len()
        && name.iter().zip(known).all(|(&n, &k)| n == k || k == b'-' && matches!(n, b'_' | b'.'))
}

/// An address as text, on the stack.
struct Client {
    /// `"[` the address `]"`; the bare form of both versions is a part of it.
    text: [u8; Self::MAX],
    end: usize,
    is_v6: bool,
}

impl Client {
    /// The longest IPv6 address, `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, is 45 bytes;
    /// quotes and brackets are 4 more.
    const MAX: usize = 45 + 4;

    fn new(ip: IpAddr) -> Self {
        // A client on IPv4 is seen as ::ffff:192.0.2.1 by a listener on both.
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

    fn bare(&self) -> &[u8] {
        &self.text[2..self.end]
    }

    /// RFC 7239 section 6: an IPv6 address stands in brackets, and so in quotes.
    fn node(&self) -> &[u8] {
        if self.is_v6 { &self.text[..self.end + 2] } else { self.bare() }
    }
}

/// Dotted decimal, and its length; a tenth of what the standard formatting costs.
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

/// Our element of a `Forwarded` list (RFC 7239 section 4).
fn put_element(
    client: Option<&Client>,
    host: Option<&HeaderValue>,
    proto: &str,
    out: &mut BytesMut,
) {
    out.put_slice(b"for=");
    // RFC 7239 section 6.2: a peer without an address, as on a Unix socket, is "unknown".
    out.put_slice(client.map_or(b"unknown", Client::node));
    if let Some(host) = host {
        out.put_slice(b";host=");
        put_value(out, host.as_bytes());
    }
    out.put_slice(b";proto=");
    out.put_slice(proto.as_bytes());
}

/// A token as it is, anything else as a quoted string (RFC 9110 section 5.6.4).
fn put_value(out: &mut BytesMut, value: &[u8]) {
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

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests;
