//! A parser that returns heads as slices of the input, without their meaning.

use std::fmt;

use http::Version;

use super::{
    Fault, Limits,
    head::{Field, Lines, Section, range},
    request, response,
};

/// A parser of heads into slices. It copies nothing, and allocates only for the first few heads.
///
/// It is the level below [`Conn`](super::Conn), and checks the grammar: lines, names, values, targets,
/// versions and [`Limits`]. It does not interpret fields, framing and `Host` included: use `Conn` to
/// read the body of a message.
///
/// ```
/// use vestibule::proto::h1::{HeadParser, Limits};
///
/// let mut parser = HeadParser::new(Limits::default());
/// let mut bytes = b"GET /a?b HTTP/1.1\r\nHost: a\r\n".to_vec();
/// assert!(parser.request(&bytes)?.is_none()); // more must come
/// bytes.extend_from_slice(b"\r\nnext");
/// let head = parser.request(&bytes)?.expect("a whole head");
/// assert_eq!((head.method, head.target), (&b"GET"[..], &b"/a?b"[..]));
/// assert!(head.fields().eq([(&b"Host"[..], &b"a"[..])]));
/// assert_eq!(&bytes[head.len..], b"next");
/// # Ok::<(), vestibule::proto::h1::Fault>(())
/// ```
#[derive(Debug, Default)]
pub struct HeadParser {
    lines: Lines,
    limits: Limits,
}

/// A request head, as [`HeadParser::request`] returns it.
#[derive(Clone)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// The method: a token, in its original case.
    pub method: &'a [u8],
    /// The target: visible ASCII without `#`, in any form.
    pub target: &'a [u8],
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// The length of the head with its empty line, in bytes. The body starts there.
    pub len: usize,
    fields: Fields<'a>,
}

/// A response head, as [`HeadParser::response`] returns it.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// The status code, from 100 to 999.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: &'a [u8],
    /// The length of the head with its empty line, in bytes. The body starts there.
    pub len: usize,
    fields: Fields<'a>,
}

/// An iterator over the fields of a head in order: names in their original case, values trimmed.
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    fields: std::slice::Iter<'a, Field>,
}

impl HeadParser {
    /// Creates a parser with these bounds; it ignores those on bodies and time. It refuses folded lines
    /// even if [`Lenient`](super::Lenient) allows them: a slice of one would contain CR and LF.
    pub fn new(mut limits: Limits) -> Self {
        limits.lenient.folded_lines = false;
        Self { lines: Lines::default(), limits }
    }

    /// Parses the request head at the front of `bytes`. Returns `None` if it is not complete: call it again
    /// with the same bytes and more after them. Bytes are not scanned twice.
    ///
    /// After a head, the next call begins a new one.
    ///
    /// # Errors
    /// The peer's [`Fault`]; the next call begins a new head.
    ///
    /// # Panics
    /// May panic if `bytes` does not start with the bytes of the previous call, if that returned `None`.
    /// Use one parser for each connection.
    pub fn request<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<RequestHead<'a>>, Fault> {
        let Some(len) = self.read(bytes, true)? else { return Ok(None) };
        let line = request::parse_line(bytes, &self.lines)?;
        Ok(Some(RequestHead {
            method: &bytes[line.method],
            target: &bytes[line.target],
            version: line.version,
            len,
            fields: self.fields(bytes),
        }))
    }

    /// Parses the response head at the front of `bytes`, in the same way as [`request`](Self::request).
    ///
    /// # Errors
    /// The peer's [`Fault`]; the next call begins a new head.
    ///
    /// # Panics
    /// The same as of [`request`](Self::request).
    pub fn response<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<ResponseHead<'a>>, Fault> {
        let Some(len) = self.read(bytes, false)? else { return Ok(None) };
        let line = &bytes[range(self.lines.start)];
        let (version, status, reason) = response::parse_status_line(line)?;
        let fields = self.fields(bytes);
        Ok(Some(ResponseHead { version, status: status.as_u16(), reason, len, fields }))
    }

    fn read(&mut self, bytes: &[u8], request: bool) -> Result<Option<usize>, Fault> {
        if self.lines.is_complete() {
            self.lines.clear();
        }
        let section = if request {
            Section::of_request(&self.limits)
        } else {
            Section::of_response(&self.limits)
        };
        self.lines.read(bytes, section, &self.limits).inspect_err(|_| self.lines.clear())
    }

    fn fields<'a>(&'a self, bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, fields: self.lines.fields.iter() }
    }
}

impl<'a> RequestHead<'a> {
    /// Returns the fields, in order.
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }
}

impl<'a> ResponseHead<'a> {
    /// Returns the fields, in order.
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.fields.next()?;
        Some((&self.bytes[range(field.name)], &self.bytes[range(field.value)]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.fields.size_hint()
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// Bytes that are formatted as text, with escapes for non-ASCII bytes.
struct Text<'a>(&'a [u8]);

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &Text(self.method))
            .field("target", &Text(self.target))
            .field("version", &self.version)
            .field("len", &self.len)
            .field("fields", &self.fields)
            .finish()
    }
}

impl fmt::Debug for ResponseHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("version", &self.version)
            .field("status", &self.status)
            .field("reason", &Text(self.reason))
            .field("len", &self.len)
            .field("fields", &self.fields)
            .finish()
    }
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.clone().map(|(name, value)| (Text(name), Text(value)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_reads_heads_in_sequence_and_after_a_fault() {
        let mut parser = HeadParser::default();
        for _ in 0..3 {
            let head = parser.request(b"\r\nPOST * HTTP/1.0\r\na:b \r\n\r\nx").unwrap().unwrap();
            assert_eq!((head.method, head.target, head.len), (&b"POST"[..], &b"*"[..], 27));
            assert!(head.fields().eq([(&b"a"[..], &b"b"[..])]));
            assert_eq!(head.fields().len(), 1);
            assert_eq!(parser.request(b"GET / HTTP/1.1\r\na b\r\n").unwrap_err(), Fault::FieldName);
            let head = parser.response(b"HTTP/1.1 200 All is well\r\n\r\n").unwrap().unwrap();
            assert_eq!((head.status, head.reason), (200, &b"All is well"[..]));
            assert_eq!((head.version, head.len), (Version::HTTP_11, 28));
            assert_eq!(parser.request(b"GET / HTTP/3\r\n\r\n").unwrap_err(), Fault::Version);
        }
    }

    #[test]
    fn heads_print_as_text() {
        let mut parser = HeadParser::default();
        let head = parser.request(b"GET /a HTTP/1.1\r\nHost: a\r\nX: \"\xff\r\n\r\n").unwrap();
        assert_eq!(
            format!("{:?}", head.unwrap()),
            r#"RequestHead { method: "GET", target: "/a", version: HTTP/1.1, len: 35, fields: {"Host": "a", "X": "\"\xff"} }"#
        );
        let head = parser.response(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(
            format!("{:?}", head.unwrap()),
            r#"ResponseHead { version: HTTP/1.1, status: 200, reason: "OK", len: 19, fields: {} }"#
        );
    }

    #[test]
    fn no_slice_holds_end_of_line_with_any_leniency() {
        let mut limits = Limits::default();
        limits.lenient.bare_lf = true;
        limits.lenient.folded_lines = true;
        limits.lenient.space_before_colon = true;
        let mut parser = HeadParser::new(limits);
        let head = parser.response(b"HTTP/1.1 200 OK\nA : b\n\n").unwrap().unwrap();
        assert!(head.fields().eq([(&b"A"[..], &b"b"[..])]));
        let folded = parser.response(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n");
        assert_eq!(folded.unwrap_err(), Fault::Folded);
    }
}
