//! Heads as slices of the bytes they came in, for those who want the lines and nothing more.

use std::fmt;

use http::Version;

use super::{
    Fault, Limits,
    head::{Field, Lines, Section, range},
    request, response,
};

/// Reads heads into slices: nothing is copied, and nothing allocated once it has read a few.
///
/// It is the level below [`Conn`](super::Conn), and checks the grammar: lines, names, values,
/// targets, versions and [`Limits`]. What the fields mean, framing and `Host` above all, is for
/// `Conn` to judge: whoever reads a message's body must ask it, not this.
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

/// What [`HeadParser::request`] found.
#[derive(Clone)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// A token, in the case it came in.
    pub method: &'a [u8],
    /// Visible ASCII without `#`, in whatever form.
    pub target: &'a [u8],
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// Bytes of the head, its empty line included: there the body begins.
    pub len: usize,
    fields: Fields<'a>,
}

/// What [`HeadParser::response`] found.
#[derive(Clone)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// HTTP/1.1 or HTTP/1.0.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// May be empty.
    pub reason: &'a [u8],
    /// Bytes of the head, its empty line included: there the body begins.
    pub len: usize,
    fields: Fields<'a>,
}

/// The fields of a head in order: names as they came, values without the white space around them.
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    fields: std::slice::Iter<'a, Field>,
}

impl HeadParser {
    /// A parser with these bounds; those that concern bodies and time are not its own. Folded lines
    /// are refused whatever [`Lenient`](super::Lenient) says: a slice of one would hold CR and LF.
    pub fn new(mut limits: Limits) -> Self {
        limits.lenient.folded_lines = false;
        Self { lines: Lines::default(), limits }
    }

    /// The request head at the front of `bytes`; `None` if it is not complete. Call it again with
    /// the same bytes and more behind them: what was looked at is not looked at again.
    ///
    /// After a head, the next call begins a new one.
    ///
    /// # Errors
    /// The peer's [`Fault`]; the next call begins a new head.
    ///
    /// # Panics
    /// It may if the bytes of the call before, which gave `None`, are not at the front of `bytes`.
    /// For another connection take another parser.
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

    /// The response head at the front of `bytes`, in the same way.
    ///
    /// # Errors
    /// The peer's [`Fault`]; the next call begins a new head.
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
    /// The fields, in order.
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }
}

impl<'a> ResponseHead<'a> {
    /// The fields, in order.
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

/// Bytes that are printed as text, with escapes where they are not ASCII.
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
