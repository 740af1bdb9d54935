//! Reads heads and trailers line by line. Each byte is scanned once, however the bytes arrive.

mod blocks;
mod field;
mod lenient;
mod section;

use http::HeaderMap;

use self::field::{offset, span};
use super::{Fault, Limits, scan};

pub(super) use field::{Field, Span, range};
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub use section::Section;

/// The lines of a head found so far, as offsets from the head's first byte.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Lines {
    position: ScanPosition,
    /// The start line without its line end; empty until it is complete.
    pub(super) start: Span,
    /// End of the token with which the start line begins.
    pub(super) start_token: u32,
    empty_lines: u8,
    /// Whether the empty line at the end was found.
    is_complete: bool,
    /// Whether some value extends over a line end.
    has_folded: bool,
    /// The field lines, in order.
    pub(super) fields: Vec<Field>,
}

/// The progress of the scan.
#[derive(Debug, Clone, Copy)]
struct ScanPosition {
    /// Start of the line that is not complete yet.
    line_start: usize,
    /// End of the scanned bytes. `line_start <= scanned <= bytes so far`.
    scanned: usize,
    /// End of the token with which that line begins, or [`UNKNOWN_END`] while the token may continue.
    name_end: usize,
    /// Whether that line may contain a control byte, so that its value must be checked.
    has_suspect: bool,
    /// Whether the start line is expected and not complete.
    in_start_line: bool,
}

/// No end of the token at a line's start has been found yet.
const UNKNOWN_END: usize = usize::MAX;

impl Default for ScanPosition {
    fn default() -> Self {
        Self {
            line_start: 0,
            scanned: 0,
            name_end: UNKNOWN_END,
            has_suspect: false,
            in_start_line: false,
        }
    }
}

/// Initial capacity for fields: enough for the head of a browser.
const INITIAL_FIELDS: usize = 16;

/// Largest capacity for fields that is kept for the next head (2 KiB).
const MAX_RETAINED_FIELDS: usize = 128;

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

impl Lines {
    /// Returns whether nothing was read yet, not counting empty lines before the start line.
    pub(super) fn is_empty(&self) -> bool {
        self.start.1 == 0 && self.position.scanned == self.position.line_start
    }

    /// Returns whether the empty line at the end was found.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Resets to the start of a head. Keeps up to [`MAX_RETAINED_FIELDS`] of capacity.
    pub(super) fn clear(&mut self) {
        let Self { position, start, start_token, empty_lines, is_complete, has_folded, fields } =
            self;
        fields.clear();
        if fields.capacity() > MAX_RETAINED_FIELDS {
            *fields = Vec::new();
        }
        (*position, *start, *start_token) = (ScanPosition::default(), (0, 0), 0);
        (*empty_lines, *is_complete, *has_folded) = (0, false, false);
    }

    /// Records all complete lines. Returns the length of the section once its empty line was found.
    ///
    /// `input` must start at the start of the section in each call.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        section: Section,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        if self.fields.capacity() == 0 && !input.is_empty() {
            self.fields.reserve(INITIAL_FIELDS);
        }
        let most = section.bytes.min(u32::MAX as usize);
        let input = &input[..input.len().min(most)];
        let section = &section;
        self.position.in_start_line = section.start_line && self.start.1 == 0;
        let found = if section.lenient.affects_lines() {
            lenient::LineReader { lines: self, input, section, limits }.read()?
        } else {
            scan::dispatch(blocks::ReadLines { lines: self, input, section, limits })?
        };
        self.is_complete = found.is_some();
        if self.is_complete {
            return Ok(found);
        }
        if let Some(fault) = start_fault(section, limits, self.position, input.len()) {
            return Err(fault);
        }
        if input.len() < most {
            return Ok(None);
        }
        Err(if self.position.in_start_line {
            Fault::StartLineTooLong
        } else {
            Fault::FieldsTooLarge
        })
    }

    /// Records the start line, or an empty line before it, from `position` to `end`. Returns whether
    /// the start line is still expected.
    #[inline(always)]
    fn start_line(
        &mut self,
        position: ScanPosition,
        end: usize,
        section: &Section,
    ) -> Result<bool, Fault> {
        if position.line_start == end {
            self.empty_lines += 1;
            if self.empty_lines > section.empty_lines {
                return Err(Fault::EmptyLines);
            }
            return Ok(true);
        }
        self.start = span(position.line_start, end);
        self.start_token = offset(position.name_end);
        Ok(false)
    }

    /// Reserves capacity for the fields in an empty map, which [`Field::append`] fills.
    pub(super) fn reserve(&self, map: &mut HeaderMap) -> Result<(), Fault> {
        map.try_reserve(self.fields.len()).map_err(|_| Fault::FieldsTooLarge)
    }
}

/// Returns the fault of a line without a name directly before a colon (RFC 9112 section 5.1): a line that
/// begins with white space is folded.
#[cold]
fn name_fault(first: u8) -> Fault {
    if is_white(first) { Fault::Folded } else { Fault::FieldName }
}

/// Returns the fault of a start line whose method or bytes up to `end` exceed their bounds. Bounds are
/// checked before the grammar, or the fault would depend on how the bytes arrived.
#[inline(always)]
fn start_fault(
    section: &Section,
    limits: &Limits,
    position: ScanPosition,
    end: usize,
) -> Option<Fault> {
    if !position.in_start_line {
        return None;
    }
    if position.name_end.min(end) - position.line_start > section.method_bytes {
        return Some(Fault::MethodTooLong); // even if more faults follow
    }
    let too_long = end - position.line_start > limits.start_line_bytes.saturating_add(1);
    too_long.then_some(Fault::StartLineTooLong)
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R5: a head that arrives byte by byte costs no more than one that arrives at once. Each call scans the
    /// bytes from `scanned` on, so the test checks that `scanned` covers all bytes after each call.
    #[test]
    fn each_byte_of_head_is_read_once() {
        let limits = Limits { fields: 4_000, ..Limits::default() };
        let section = Section::of_request(&limits);
        let room = limits.head_bytes - "GET / HTTP/1.1\r\n\r\n".len();
        let one_value = format!("X: {}\r\n", "a".repeat(room - 5));
        let many_lines = "a: bcde\r\n".repeat(room / 9);
        for fields in [one_value, many_lines] {
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            let (mut lines, mut scanned_bytes) = (Lines::default(), 0);
            for n in 1..=head.len() {
                scanned_bytes += n - lines.position.scanned;
                let found = lines.read(&head.as_bytes()[..n], section, &limits);
                assert_eq!(found, Ok((n == head.len()).then_some(n)));
                assert!(found == Ok(Some(n)) || lines.position.scanned == n);
            }
            assert_eq!(scanned_bytes, head.len());
        }
    }
}
