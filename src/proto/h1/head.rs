//! A head, or trailers, line by line: each byte is looked at once, however the bytes arrive.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Fault, Limits,
    name::{self, Role},
    scan::{self, BLOCK, Masks, Scan, Work},
};

/// Where the lines of a head are, found so far. Offsets count from the head's first byte.
///
/// Bytes are looked at in blocks of 64, as bit masks. In a block, the first delimiter after each
/// line's beginning is where its name ends: adding the bits of the beginnings to those of the token
/// bytes carries through each name and comes out behind it. So a block with five fields in it costs
/// ten steps over set bits, and no look at single bytes.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Lines {
    /// Beginning of the line that is not yet complete.
    line: usize,
    /// Up to here everything has been looked at. `line <= scanned <= bytes so far`.
    scanned: usize,
    /// Where the token at that line's beginning ends; `None` if it goes on.
    name_end: Option<usize>,
    /// That line may hold a control byte: look again when it is complete.
    suspect: bool,
    /// The start line, without CRLF; empty until it is complete.
    pub(super) start: Span,
    /// The token at the start line's beginning ends here.
    pub(super) start_token: u32,
    empty_lines: u8,
    /// The field lines, in order.
    pub(super) fields: Vec<Field>,
}

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// Offsets `.0 .. .1`. A head is bounded far below 4 GiB.
pub(super) type Span = (u32, u32);

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
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
        scan::dispatch(Reading { lines: self, input, section, limits })
    }

    fn wants_start(&self, section: Section) -> bool {
        section.start_line && self.start.1 == 0
    }

    fn too_large(&self, section: Section) -> Fault {
        if self.wants_start(section) { Fault::StartLineTooLong } else { Fault::FieldsTooLarge }
    }

    /// Every field in order, the value a slice of `head`.
    pub(super) fn fields<'a>(
        &'a self,
        head: &'a Bytes,
    ) -> impl Iterator<Item = Result<(Role, HeaderName, HeaderValue), Fault>> + 'a {
        self.fields.iter().map(|f| {
            let (name, role) = name::parse(&head[range(f.name)]).ok_or(Fault::FieldName)?;
            Ok((role, name, scan::value(head.slice(range(f.value)))))
        })
    }

    /// A map with room for the fields; [`append`] fills it.
    pub(super) fn map(&self) -> Result<HeaderMap, Fault> {
        HeaderMap::try_with_capacity(self.fields.len()).map_err(|_| Fault::FieldsTooLarge)
    }
}

/// One call of [`Lines::read`].
struct Reading<'a> {
    lines: &'a mut Lines,
    input: &'a [u8],
    section: Section,
    limits: &'a Limits,
}

impl Work for Reading<'_> {
    type Output = Result<Option<usize>, Fault>;

    #[inline(always)]
    fn run<S: Scan>(mut self, scan: S) -> Self::Output {
        while self.lines.scanned < self.input.len() {
            let at = self.lines.scanned;
            let found = self.block(at, scan.block(self.input, at))?;
            if found.is_some() {
                return Ok(found);
            }
            self.lines.scanned = self.input.len().min(at + BLOCK);
            if self.lines.line <= at && self.lines.name_end.is_some() {
                // In the middle of a long value: only a control byte matters.
                self.lines.scanned += scan.plain_len(self.input, self.lines.scanned);
            }
        }
        let open = self.input.len() - self.lines.line;
        if self.lines.wants_start(self.section) && open > self.limits.start_line_bytes + 1 {
            return Err(Fault::StartLineTooLong);
        }
        if self.input.len() >= self.section.bytes {
            return Err(self.lines.too_large(self.section));
        }
        Ok(None)
    }
}

impl Reading<'_> {
    /// Goes over the names and lines that end in the block at `at`.
    #[inline(always)]
    fn block(&mut self, at: usize, masks: Masks) -> Result<Option<usize>, Fault> {
        let Masks { lf, cr, delimiters, controls } = masks;
        let begins = lf << 1 | u64::from(self.lines.name_end.is_none());
        // Where the block has less than 64 bytes the rest counts as token: no name ends there.
        let name_ends = (!delimiters).wrapping_add(begins) & delimiters;
        let after_cr = cr << 1 | u64::from(at > 0 && self.input[at - 1] == b'\r');
        let bare_lf = lf & !after_cr;
        let bare_cr = after_cr & !lf;
        // Also true of a CR whose LF comes with the next bytes: a second look will tell.
        self.lines.suspect |= controls || bare_cr != 0 || cr >> 63 != 0;
        let mut events = name_ends | lf;
        if bare_lf != 0 {
            events &= bare_lf.wrapping_sub(1) & !bare_lf; // those before the first bare one
        }
        let mut next = || {
            let event = at + events.trailing_zeros() as usize;
            let some = events != 0;
            events &= events.wrapping_sub(1);
            some.then_some(event)
        };
        loop {
            let Some(name_end) = self.lines.name_end.take().or_else(&mut next) else { break };
            let Some(lf) = next() else {
                self.lines.name_end = Some(name_end);
                break;
            };
            if let Some(len) = self.line(name_end, lf)? {
                return Ok(Some(len));
            }
        }
        if bare_lf != 0 {
            let lf = at + bare_lf.trailing_zeros() as usize;
            self.bounds(lf)?;
            return Err(Fault::LineEnd);
        }
        // What was suspect may have been in a line that is complete.
        self.lines.suspect &= self.lines.line <= at || controls || bare_cr != 0 || cr >> 63 != 0;
        Ok(None)
    }

    /// Bounds come first: else the fault would depend on how much had come at once.
    #[inline(always)]
    fn bounds(&self, lf: usize) -> Result<(), Fault> {
        let wants_start = self.lines.wants_start(self.section);
        if wants_start && lf - self.lines.line > self.limits.start_line_bytes + 1 {
            return Err(Fault::StartLineTooLong);
        }
        if lf + 1 > self.section.bytes {
            return Err(self.lines.too_large(self.section));
        }
        Ok(())
    }

    /// A line is complete: it ends at `lf`, behind a CR, and its name at `name_end`.
    #[inline(always)]
    fn line(&mut self, name_end: usize, lf: usize) -> Result<Option<usize>, Fault> {
        self.bounds(lf)?;
        let (at, end) = (self.lines.line, lf - 1);
        self.lines.line = lf + 1;
        if self.lines.wants_start(self.section) {
            if at == end {
                self.lines.empty_lines += 1;
                if !self.section.skip_empty || self.lines.empty_lines > 1 {
                    return Err(Fault::EmptyLines);
                }
            } else {
                self.lines.start = span(at, end);
                self.lines.start_token = offset(name_end);
            }
            return Ok(None);
        }
        if at == end {
            return Ok(Some(lf + 1));
        }
        self.field(at, name_end, end).map(|()| None)
    }

    #[inline(always)]
    fn field(&mut self, at: usize, name_end: usize, end: usize) -> Result<(), Fault> {
        let name = name_end - at;
        // RFC 9112 section 5.1: no white space between name and colon.
        if name == 0 || self.input[name_end] != b':' {
            return Err(self.no_name(at));
        }
        // One space is what everybody writes; whatever else is white is taken away by the way.
        let raw = &self.input[name_end + 1..end];
        let mut value = raw.strip_prefix(b" ").unwrap_or(raw);
        let odd = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
        if odd(value.first()) || odd(value.last()) {
            value = scan::trim(value);
            // Legal, but there are readers that do not take it away, see an unknown coding and
            // take the body for the next message.
            if name == TRANSFER_ENCODING.len()
                && self.input[at..name_end].eq_ignore_ascii_case(TRANSFER_ENCODING)
            {
                return Err(Fault::TransferEncoding);
            }
        }
        if self.lines.suspect && !scan::is_field_value(value) {
            return Err(Fault::FieldValue);
        }
        if self.lines.fields.len() == self.limits.fields || name > self.limits.name_bytes {
            return Err(Fault::FieldsTooLarge);
        }
        let from = value.as_ptr().addr() - self.input.as_ptr().addr();
        self.lines
            .fields
            .push(Field { name: span(at, name_end), value: span(from, from + value.len()) });
        Ok(())
    }

    /// Why there is no name: a line that begins with white space is folded.
    #[cold]
    fn no_name(&self, at: usize) -> Fault {
        if matches!(self.input[at], b' ' | b'\t') { Fault::Folded } else { Fault::FieldName }
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

fn span(from: usize, to: usize) -> Span {
    (offset(from), offset(to))
}

fn offset(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX) // heads are bounded far below
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
                assert!(found == Ok(Some(n)) || lines.scanned == n);
            }
            assert_eq!(looked_at, head.len());
        }
    }
}
