//! Encodes heads and chunks, with exactly one framing field.
//!
//! Names and values are `http` types, which contain no CR, LF or NUL, so they cannot end a line early.
//! Framing and hop-by-hop fields are never copied: they follow from the body and the connection.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::{chunked, framing::Length, keep_alive::ConnectionOptions, scan};

/// The framing field of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// No field: no body, or one that ends with the connection.
    None,
}

impl From<Length> for Framing {
    fn from(length: Length) -> Self {
        match length {
            Length::Known(n) => Self::Length(n),
            Length::Chunked => Self::Chunked,
            Length::UntilClose => Self::None,
        }
    }
}

/// Writes a status line, for example `HTTP/1.1 200 OK`.
pub(super) fn status_line(status: StatusCode, out: &mut BytesMut) {
    match status {
        StatusCode::OK => out.put_slice(b"HTTP/1.1 200 OK\r\n"),
        StatusCode::NOT_MODIFIED => out.put_slice(b"HTTP/1.1 304 Not Modified\r\n"),
        StatusCode::NOT_FOUND => out.put_slice(b"HTTP/1.1 404 Not Found\r\n"),
        other => {
            out.put_slice(b"HTTP/1.1 ");
            out.put_slice(other.as_str().as_bytes());
            out.put_u8(b' ');
            out.put_slice(other.canonical_reason().unwrap_or_default().as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

/// Writes a request line, for example `GET /path HTTP/1.1`. Returns `false` and writes nothing if the
/// target has no form for this method.
pub(super) fn request_line(method: &Method, target: &Uri, out: &mut BytesMut) -> bool {
    let path = match target.path_and_query() {
        Some(p) => p.as_str(),
        None if target.authority().is_some() => "/",
        None => return false,
    };
    // A target with only a query has an empty path, which is `/` (RFC 9110 section 4.2.3).
    let slash = if path.starts_with('?') { "/" } else { "" };
    let has_origin_form =
        path.starts_with(['/', '?']) || (path == "*" && method == Method::OPTIONS);
    if !has_origin_form || method == Method::CONNECT || !scan::is_target(path.as_bytes()) {
        return false;
    }
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(slash.as_bytes());
    out.put_slice(path.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    true
}

/// The values of fields that this module writes itself, or only if they are absent (`Date`), and of `Expect`.
#[derive(Default)]
pub(super) struct OwnFields<'a> {
    pub(super) content_length: Option<&'a [u8]>,
    pub(super) connection: ConnectionOptions,
    pub(super) has_date: bool,
    /// `Expect: 100-continue`, which is copied.
    pub(super) expects_continue: bool,
}

impl<'a> OwnFields<'a> {
    /// Records a field, and returns whether this module writes it itself, so that it must not be copied.
    ///
    /// Compares by length first, because it runs for every field of every message.
    #[inline(always)]
    fn record(&mut self, name: &[u8], value: &'a [u8]) -> bool {
        match name.len() {
            2 => name == b"te",
            4 => {
                self.has_date |= name == b"date";
                false
            }
            6 => {
                self.expects_continue |=
                    name == b"expect" && value.eq_ignore_ascii_case(b"100-continue");
                false
            }
            7 => name == b"upgrade" || name == b"trailer",
            10 if name == b"connection" => {
                self.connection.record(value);
                true
            }
            10 => name == b"keep-alive",
            14 if name == b"content-length" => {
                self.content_length.get_or_insert(value);
                true
            }
            16 => name == b"proxy-connection",
            17 => name == b"transfer-encoding",
            _ => false,
        }
    }
}

/// Writes all fields in one pass, except those that this module writes itself, which it returns.
pub(super) fn fields<'a>(headers: &'a HeaderMap, out: &mut BytesMut) -> OwnFields<'a> {
    let mut own_fields = OwnFields::default();
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if !own_fields.record(name, value) {
            field(name, value, out);
        }
    }
    own_fields
}

/// Writes the fields of a request in the same way, with exactly one `Host`, which comes first (RFC 9112
/// section 3.2).
pub(super) fn request_fields<'a>(
    headers: &'a HeaderMap,
    host: &[u8],
    out: &mut BytesMut,
) -> OwnFields<'a> {
    field(b"host", host, out);
    let mut own_fields = OwnFields::default();
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if !own_fields.record(name, value) && name != b"host" {
            field(name, value, out);
        }
    }
    own_fields
}

/// Writes one field line.
#[inline(always)]
pub(super) fn field(name: &[u8], value: &[u8], out: &mut BytesMut) {
    scan::append_field(name, value, out);
}

/// Writes the end of a head: prepared lines, the framing field if any, `Connection` unless HTTP/1.1's
/// default applies, and the empty line.
pub(super) fn end_head(
    lines: &[u8],
    framing: Framing,
    keep_alive: bool,
    version: Version,
    out: &mut BytesMut,
) {
    out.put_slice(lines);
    match framing {
        Framing::Length(n) => {
            field(b"content-length", itoa::Buffer::new().format(n).as_bytes(), out);
        }
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None => {}
    }
    match (keep_alive, version) {
        (false, _) => out.put_slice(b"connection: close\r\n\r\n"),
        (true, Version::HTTP_10) => out.put_slice(b"connection: keep-alive\r\n\r\n"),
        (true, _) => out.put_slice(b"\r\n"),
    }
}

/// Writes the size line of a chunk, in hexadecimal.
pub(super) fn chunk_size(n: usize, out: &mut BytesMut) {
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = n;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

/// Writes the last chunk, with all trailers that are allowed as such.
pub(super) fn last_chunk(trailers: Option<&HeaderMap>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !chunked::is_forbidden_trailer(name) {
            field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    out.put_slice(b"\r\n");
}
