//! A head, or trailers, line by line: each line is looked at once, however the bytes arrive.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Fault, Limits, scan};

/// Where the lines of a head are, found so far. Offsets count from the head's first byte.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Lines {
    /// Beginning of the line that is not yet complete.
    line: usize,
    /// Up to here there is no LF in that line. `line <= scanned <= bytes so far`.
    scanned: usize,
    /// The start line, without CRLF; empty until it is complete.
    pub(super) start: Span,
    /// The field lines, in order.
    fields: Vec<Field>,
    empty_lines: u8,
}

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// Offsets `.0 .. .1`. A head is bounded far below 4 GiB.
pub(super) type Span = (u32, u32);

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
}

/// What a section of lines consists of, and its bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    /// Does it begin with a start line?
    pub(super) start_line: bool,
    /// May empty lines come before the start line (RFC 9112 section 2.2)? Then one is skipped.
    pub(super) skip_empty: bool,
    pub(super) bytes: usize,
}

impl Lines {
    /// Has nothing been seen yet, but for empty lines before the start line?
    pub(super) fn is_new(&self) -> bool {
        self.start.1 == 0 && self.scanned == self.line
    }

    /// Takes note of all complete lines; `Some(length)` once the empty line was found.
    ///
    /// `input` begins where the section begins, also when it is called again with more.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        section: Section,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        if self.fields.capacity() == 0 && !input.is_empty() {
            self.fields.reserve(16); // a browser's head in one go
        }
        while let Some(at) = memchr::memchr(b'\n', &input[self.scanned..]) {
            let lf = self.scanned + at;
            // Bounds first: else the fault would depend on how much had come at once.
            if self.wants_start(section) && lf - self.line > limits.start_line_bytes + 1 {
                return Err(Fault::StartLineTooLong);
            }
            if lf + 1 > section.bytes {
                return Err(self.too_large(section));
            }
            let line = input[self.line..lf].strip_suffix(b"\r").ok_or(Fault::LineEnd)?;
            let start = self.line;
            (self.line, self.scanned) = (lf + 1, lf + 1);
            if !line.is_empty() {
                self.line(line, start, section, limits)?;
            } else if self.wants_start(section) {
                self.empty_lines += 1;
                if !section.skip_empty || self.empty_lines > 1 {
                    return Err(Fault::EmptyLines);
                }
            } else {
                return Ok(Some(lf + 1));
            }
        }
        self.scanned = input.len();
        let open = input.len() - self.line;
        if self.wants_start(section) && open > limits.start_line_bytes + 1 {
            return Err(Fault::StartLineTooLong);
        }
        if input.len() >= section.bytes {
            return Err(self.too_large(section));
        }
        Ok(None)
    }

    fn wants_start(&self, section: Section) -> bool {
        section.start_line && self.start.1 == 0
    }

    fn too_large(&self, section: Section) -> Fault {
        if self.wants_start(section) { Fault::StartLineTooLong } else { Fault::FieldsTooLarge }
    }

    fn line(
        &mut self,
        line: &[u8],
        at: usize,
        section: Section,
        limits: &Limits,
    ) -> Result<(), Fault> {
        if self.wants_start(section) {
            self.start = span(at, at + line.len());
            return Ok(());
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Fault::Folded);
        }
        // RFC 9112 section 5.1: no white space between name and colon.
        let name = scan::token_len(line);
        if name == 0 || line.get(name) != Some(&b':') {
            return Err(Fault::FieldName);
        }
        let value = scan::trim(&line[name + 1..]);
        if !scan::is_field_value(value) {
            return Err(Fault::FieldValue);
        }
        if self.fields.len() == limits.fields || name > limits.name_bytes {
            return Err(Fault::FieldsTooLarge);
        }
        // Legal white space, but there are readers that do not take it away, see an unknown coding
        // and take the body for the next message. Real senders write one space, in front.
        let raw = &line[name + 1..];
        if name == TRANSFER_ENCODING.len()
            && line[..name].eq_ignore_ascii_case(TRANSFER_ENCODING)
            && raw.strip_prefix(b" ").unwrap_or(raw) != value
        {
            return Err(Fault::TransferEncoding);
        }
        let from = at + name + 1 + leading(&line[name + 1..]);
        self.fields
            .push(Field { name: span(at, at + name), value: span(from, from + value.len()) });
        Ok(())
    }

    /// Every field as name and value, the value a slice of `head`; `each` takes them in order.
    pub(super) fn fields<'a>(
        &'a self,
        head: &'a Bytes,
    ) -> impl Iterator<Item = Result<(HeaderName, HeaderValue), Fault>> + 'a {
        self.fields.iter().map(|f| {
            let name = &head[f.name.0 as usize..f.name.1 as usize];
            let name = HeaderName::from_bytes(name).map_err(|_| Fault::FieldName)?;
            let value = head.slice(f.value.0 as usize..f.value.1 as usize);
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Fault::FieldValue)?;
            Ok((name, value))
        })
    }

    /// A map with room for the fields; [`append`] fills it.
    pub(super) fn map(&self) -> Result<HeaderMap, Fault> {
        HeaderMap::try_with_capacity(self.fields.len()).map_err(|_| Fault::FieldsTooLarge)
    }
}

/// Appends a field, unless there are more than a map can hold: [`Limits::fields`] may allow that.
pub(super) fn append(
    map: &mut HeaderMap,
    name: HeaderName,
    value: HeaderValue,
) -> Result<(), Fault> {
    map.try_append(name, value).map(|_| ()).map_err(|_| Fault::FieldsTooLarge)
}

/// How many bytes of optional white space stand at the front.
fn leading(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count()
}

fn span(from: usize, to: usize) -> Span {
    let offset = |n| u32::try_from(n).unwrap_or(u32::MAX); // heads are bounded far below
    (offset(from), offset(to))
}

/// A span as a range.
pub(super) fn range(span: Span) -> std::ops::Range<usize> {
    span.0 as usize..span.1 as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R5: a head that comes byte by byte costs what one that comes whole costs. Each call looks
    /// at the bytes behind `scanned`, so it is enough that nothing that came is left behind it.
    #[test]
    fn each_byte_is_looked_at_once() {
        let limits = Limits { fields: 4_000, ..Limits::default() };
        let section = Section { start_line: true, skip_empty: true, bytes: limits.head_bytes };
        let room = limits.head_bytes - "GET / HTTP/1.1\r\n\r\n".len();
        let one_value = format!("X: {}\r\n", "a".repeat(room - 5));
        let many_lines = "a: bcde\r\n".repeat(room / 9);
        for fields in [one_value, many_lines] {
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            let (mut lines, mut looked_at) = (Lines::default(), 0);
            for n in 1..=head.len() {
                looked_at += n - lines.scanned;
                let found = lines.read(&head.as_bytes()[..n], section, &limits);
                assert_eq!(found, Ok((n == head.len()).then_some(n)));
                assert_eq!(lines.scanned, n);
            }
            assert_eq!(looked_at, head.len());
        }
    }
}
