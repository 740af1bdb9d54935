//! Parses request heads: the request line, singleton fields, framing and keep-alive.

use std::{net::Ipv6Addr, ops::Range};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request::Parts};

use super::{
    Fault, Limits,
    framing::{FramingFields, Length},
    head::{Lines, range},
    keep_alive::ConnectionOptions,
    name::KnownField,
    scan,
};

/// The framing and connection state that follow from a request head.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) length: Length,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    /// `Connection` has the option `upgrade`.
    pub(super) has_upgrade: bool,
    /// `Connection` has options other than `close`, `keep-alive` and `upgrade`.
    pub(super) names_fields: bool,
}

/// Fills an empty head from its bytes and the lines found in them.
pub(super) fn parse(
    parts: &mut Parts,
    head: &Bytes,
    lines: &Lines,
    limits: &Limits,
) -> Result<Meta, Fault> {
    let line = parse_line(head, lines)?;
    parts.method = Method::from_bytes(&head[line.method]).map_err(|_| Fault::RequestLine)?;
    parts.version = line.version;
    let is_connect = parts.method == Method::CONNECT;
    if is_connect && !limits.connect {
        return Err(Fault::Connect);
    }
    let Known { framing, connection, host, expects_continue } =
        parse_fields(&mut parts.headers, head, lines, limits)?;
    let target = head.slice(line.target);
    let authority;
    (parts.uri, authority) = parse_target(&parts.method, target, host)?;
    if host.is_none() && parts.version == Version::HTTP_11 {
        return Err(Fault::HostMissing); // RFC 9112 section 3.2
    }
    if let Some(authority) = authority {
        // RFC 9112 section 3.2.2: it replaces `Host`.
        parts.headers.try_insert(header::HOST, authority).map_err(|_| Fault::FieldsTooLarge)?;
    }
    let length = framing.request_length(parts.version)?;
    if is_connect && !framing.is_empty() {
        return Err(Fault::ConnectBody); // RFC 9110 section 9.3.6: bytes after the head may be the tunnel's
    }
    Ok(Meta {
        length,
        // A client that does not wait for the response to CONNECT has sent bytes that are no request.
        keep_alive: connection.keeps_alive(parts.version) && !is_connect,
        has_upgrade: connection.has_upgrade(),
        names_fields: connection.names_fields(),
        // RFC 9110 section 10.1.1: ignored in HTTP/1.0, and pointless without a body.
        expects_continue: expects_continue
            && parts.version == Version::HTTP_11
            && length != Length::Known(0),
    })
}

/// What the known fields of a head say.
#[derive(Default)]
struct Known<'a> {
    framing: FramingFields,
    connection: ConnectionOptions,
    host: Option<&'a [u8]>,
    expects_continue: bool,
}

/// Appends the fields of a head to `headers`, except those of its framing that do not apply to the body that is handed on.
#[inline] // called once
fn parse_fields<'a>(
    headers: &mut HeaderMap,
    head: &'a Bytes,
    lines: &Lines,
    limits: &Limits,
) -> Result<Known<'a>, Fault> {
    let mut known = Known::default();
    lines.reserve(headers)?;
    for field in &lines.fields {
        let (name, kind, value) = field.read(head, lines)?;
        match kind {
            KnownField::Other => {}
            KnownField::Ambiguous => return Err(Fault::AmbiguousName),
            KnownField::Host => {
                if known.host.replace(value).is_some() {
                    return Err(Fault::Host);
                }
            }
            KnownField::ContentLength if limits.lenient.repeated_content_length => {
                let length = known.framing.record_repeated_content_length(value)?;
                let Some(n) = length else { continue };
                let inserted = headers.try_insert(name, n.into());
                inserted.map_err(|_| Fault::FieldsTooLarge)?;
                continue;
            }
            KnownField::ContentLength => known.framing.record_content_length(value)?,
            KnownField::TransferEncoding => {
                known.framing.record_transfer_encoding(value)?;
                continue; // the body that is handed on is no longer chunked
            }
            KnownField::Connection => known.connection.record(value),
            KnownField::Expect => known.expects_continue = parse_expectation(value)?,
            KnownField::ContentType => {
                if headers.contains_key(&name) {
                    return Err(Fault::Repeated);
                }
            }
        }
        field.append(headers, name, head, lines)?;
    }
    Ok(known)
}

/// A request line, as ranges of the head.
pub(super) struct Line {
    pub(super) method: Range<usize>,
    pub(super) target: Range<usize>,
    pub(super) version: Version,
}

/// Parses `method SP request-target SP HTTP-version` with single spaces only (RFC 9112 section 3).
pub(super) fn parse_line(head: &[u8], lines: &Lines) -> Result<Line, Fault> {
    let Range { start: at, end } = range(lines.start);
    let method_end = lines.start_token as usize;
    if method_end == at || head[method_end] != b' ' {
        return Err(Fault::RequestLine);
    }
    let rest = &head[method_end + 1..end];
    // All versions have the same length, which gives the end of the target.
    let target_end = rest.len().wrapping_sub(" HTTP/1.1".len());
    if rest.get(target_end) == Some(&b' ') && target_end > 0 && scan::is_target(&rest[..target_end])
    {
        let from = method_end + 1;
        let version = parse_version(&rest[target_end + 1..])?;
        return Ok(Line { method: at..method_end, target: from..from + target_end, version });
    }
    Err(request_line_fault(rest))
}

/// Returns the fault of a request line; `rest` is its part after the method.
#[cold]
fn request_line_fault(rest: &[u8]) -> Fault {
    let Some(target_end) = memchr::memchr(b' ', rest) else { return Fault::RequestLine };
    parse_version(&rest[target_end + 1..]).err().unwrap_or(Fault::Target)
}

/// Parses `HTTP/1.1` or `HTTP/1.0`.
pub(super) fn parse_version(bytes: &[u8]) -> Result<Version, Fault> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Fault::VersionNotSupported)
        }
        _ => Err(Fault::Version),
    }
}

/// Parses a target in one of the forms for its method (RFC 9112 section 3.2). Returns it in origin-form or
/// as `*`, with the authority if the target names one.
fn parse_target(
    method: &Method,
    target: Bytes,
    host: Option<&[u8]>,
) -> Result<(Uri, Option<HeaderValue>), Fault> {
    let host = match host {
        Some(host) => Some(Host::parse(host).ok_or(Fault::Host)?),
        None => None,
    };
    match target[0] {
        _ if method == Method::CONNECT => parse_authority(target, host),
        b'/' => Ok((Uri::from_maybe_shared(target).map_err(|_| Fault::Target)?, None)),
        b'*' if target.len() == 1 && method == Method::OPTIONS => Ok((Uri::from_static("*"), None)),
        _ => parse_absolute(method, target, host),
    }
}

/// Parses a target in authority-form, which has a host and a port (RFC 9112 section 3.2.3).
fn parse_authority(
    target: Bytes,
    host: Option<Host<'_>>,
) -> Result<(Uri, Option<HeaderValue>), Fault> {
    let named = Host::parse(&target).ok_or(Fault::Target)?;
    let port = named.port.filter(|port| *port > 0).ok_or(Fault::Target)?;
    // Some clients leave out a port that is the default of HTTP or HTTPS.
    if host.is_some_and(|host| !host.is_same(named, port)) {
        return Err(Fault::Host);
    }
    let authority = HeaderValue::from_maybe_shared(target.clone()).map_err(|_| Fault::Target)?;
    let uri = Uri::from_maybe_shared(target).map_err(|_| Fault::Target)?;
    Ok((uri, Some(authority)))
}

/// Parses a target in absolute-form, whose authority is the host (RFC 9112 section 3.2.2).
///
/// The RFC ignores a `Host` beside it. One that names another host or port is refused, because a proxy
/// in front may have used it.
fn parse_absolute(
    method: &Method,
    target: Bytes,
    host: Option<Host<'_>>,
) -> Result<(Uri, Option<HeaderValue>), Fault> {
    let len = target.len();
    let uri = Uri::from_maybe_shared(target).map_err(|_| Fault::Target)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Fault::Target);
    };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return Err(Fault::Target),
    };
    let authority = authority.as_str();
    // No user information, which can obscure the authority (RFC 9110 section 4.2.4).
    let named = Host::parse(authority.as_bytes()).ok_or(Fault::Target)?;
    if host.is_some_and(|host| !host.is_same(named, default_port)) {
        return Err(Fault::Host);
    }
    let origin = if method == Method::OPTIONS && len == scheme.len() + 3 + authority.len() {
        Uri::from_static("*") // RFC 9112 section 3.2.4: the whole server
    } else {
        match uri.path_and_query() {
            Some(path) if path.as_str().starts_with('/') => Uri::from(path.clone()),
            // An empty path is `/` (RFC 9110 section 4.2.3); `http` does not add it before a query.
            Some(query) => format!("/{}", query.as_str()).parse().map_err(|_| Fault::Target)?,
            None => Uri::from_static("/"),
        }
    };
    Ok((origin, HeaderValue::from_str(authority).ok()))
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2).
#[derive(Clone, Copy)]
pub(in crate::proto) struct Host<'a> {
    /// A name, an IPv4 address or an IPv6 literal in brackets.
    name: &'a [u8],
    /// `None` for the scheme's default, also if it is empty (RFC 3986 section 3.2.3).
    port: Option<u16>,
}

impl<'a> Host<'a> {
    pub(in crate::proto) fn parse(value: &'a [u8]) -> Option<Self> {
        let len = match value {
            [b'[', rest @ ..] => {
                let end = memchr::memchr(b']', rest)?;
                std::str::from_utf8(&rest[..end]).ok()?.parse::<Ipv6Addr>().ok()?;
                end + 2 // with both brackets
            }
            _ => scan::host_len(value),
        };
        let (name, port) = value.split_at(len);
        let port = match port {
            [] | [b':'] => None,
            [b':', digits @ ..] if digits.len() <= 5 => {
                let number = digits.iter().try_fold(0u32, |n, b| {
                    b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0'))
                });
                Some(u16::try_from(number?).ok()?)
            }
            _ => return None,
        };
        if name.is_empty() { None } else { Some(Self { name, port }) }
    }

    /// Returns whether both name the same host and port, for a scheme with this default port.
    pub(in crate::proto) fn is_same(self, other: Self, default_port: u16) -> bool {
        self.name.eq_ignore_ascii_case(other.name)
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

/// Parses `100-continue`, the only defined expectation (RFC 9110 section 10.1.1).
fn parse_expectation(value: &[u8]) -> Result<bool, Fault> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(true) } else { Err(Fault::Expectation) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "any time will do")]
    fn authority_of_old_request_becomes_its_host() {
        use bytes::BytesMut;

        use crate::proto::h1::{Conn, Event, Server};
        let now = std::time::Instant::now();
        let mut conn = Conn::<Server>::new(std::sync::Arc::default(), now);
        let mut input = BytesMut::from("GET http://b.example:81/x HTTP/1.0\r\n\r\n");
        let Ok(Some(Event::Head(head))) = conn.recv(now, &mut input) else { panic!() };
        assert_eq!(head.uri.path(), "/x");
        assert_eq!(head.headers["host"], "b.example:81");
    }

    #[test]
    fn path_begins_with_slash_in_every_form_of_target() {
        for (target, path) in [
            ("http://a", "/"),
            ("http://a/", "/"),
            ("http://a?x=1", "/?x=1"),
            ("http://a/b?x=1", "/b?x=1"),
            ("/b?x=1", "/b?x=1"),
        ] {
            let uri = parse_target(&Method::GET, Bytes::from_static(target.as_bytes()), Some(b"a"));
            assert_eq!(uri.unwrap().0.path_and_query().unwrap().as_str(), path);
        }
    }
}
