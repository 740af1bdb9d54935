//! Reads heads and trailers line by line. Each byte is scanned once, however the bytes arrive.

mod lenient;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{
    Fault, Lenient, Limits,
    name::{self, KnownField},
    scan::{self, BLOCK, Masks, Scan, Work},
};

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

/// The result of [`u64::trailing_zeros`] if no bit is set.
const NO_BIT: u32 = u64::BITS;

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

/// Empty lines that are skipped before a request: RFC 9112 section 2.2 asks for at least one, and
/// some old clients send two after a body.
const MAX_EMPTY_LINES: u8 = 2;

/// Largest capacity for fields that is kept for the next head (2 KiB).
const MAX_RETAINED_FIELDS: usize = 128;

const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";

/// A range of offsets, `.0 .. .1`. [`Lines::read`] limits heads to 4 GiB.
pub(super) type Span = (u32, u32);

/// A field line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

/// The structure and bounds of a section of lines.
#[derive(Debug, Clone, Copy)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Section {
    /// Whether it begins with a start line.
    pub(super) start_line: bool,
    /// Empty lines that may precede the start line.
    pub(super) empty_lines: u8,
    /// Maximum bytes of the token with which the start line begins.
    pub(super) method_bytes: usize,
    /// Maximum bytes of the whole section.
    pub(super) bytes: usize,
    pub(super) lenient: Lenient,
}

impl Section {
    pub(super) fn of_request(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        Self {
            start_line: true,
            empty_lines: MAX_EMPTY_LINES,
            method_bytes: limits.method_bytes.min(limits.start_line_bytes),
            bytes: limits.head_bytes,
            lenient,
        }
    }

    pub(super) fn of_response(limits: &Limits) -> Self {
        let lenient = limits.lenient;
        Self {
            start_line: true,
            empty_lines: 0,
            method_bytes: usize::MAX,
            bytes: limits.head_bytes,
            lenient,
        }
    }

    /// Trailers may not be folded, in requests or responses.
    pub(super) fn of_trailers(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        // The empty line that ends the trailers is allowed even if no trailers are.
        let bytes = limits.trailer_bytes.max(b"\r\n".len());
        Self { start_line: false, empty_lines: 0, method_bytes: usize::MAX, bytes, lenient }
    }

    /// Field lines alone, which may end in LF without CR.
    pub(super) fn of_bare_lf_fields(limits: &Limits) -> Self {
        let lenient = Lenient { bare_lf: true, ..Lenient::default() };
        let bytes = limits.head_bytes;
        Self { start_line: false, empty_lines: 0, method_bytes: usize::MAX, bytes, lenient }
    }
}

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
            scan::dispatch(ReadLines { lines: self, input, section, limits })?
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

/// One call of [`Lines::read`].
struct ReadLines<'a> {
    lines: &'a mut Lines,
    input: &'a [u8],
    section: &'a Section,
    limits: &'a Limits,
}

impl Work for ReadLines<'_> {
    type Output = Result<Option<usize>, Fault>;

    #[inline(always)]
    fn run<S: Scan>(self, scan: S) -> Self::Output {
        let ReadLines { lines, input, section, limits } = self;
        let mut position = lines.position;
        let reader = LineReader { input, section, limits };
        let mut cr_before = position.scanned > 0 && input[position.scanned - 1] == b'\r';
        while position.scanned < input.len() {
            let at = position.scanned;
            let masks = scan.block(input, at);
            let found = reader.block(at, masks, cr_before, &mut position, lines)?;
            if found.is_some() {
                return Ok(found);
            }
            cr_before = masks.cr >> (BLOCK - 1) != 0;
            position.scanned = input.len().min(at + BLOCK);
            if position.line_start <= at && position.name_end != UNKNOWN_END && !cr_before {
                // Within a long value only control bytes matter.
                position.scanned += scan.plain_len(input, position.scanned);
            }
        }
        lines.position = position;
        Ok(None)
    }
}

/// The input, cut to the bound of the section, and its limits.
///
/// The input is scanned in blocks of 64 bytes, as bit masks. In a block, a name ends at the first
/// delimiter after the start of its line: adding the bits of the line starts to those of the token
/// bytes carries through each name and sets the bit after it. So a block with five fields costs ten
/// steps over set bits, and no access to single bytes.
///
/// The [`ScanPosition`] is a local variable of [`ReadLines::run`] and only passed to inlined functions,
/// so that it stays in registers.
struct LineReader<'a> {
    input: &'a [u8],
    section: &'a Section,
    limits: &'a Limits,
}

impl LineReader<'_> {
    /// Processes the names and lines that end in the block at `at`. Returns the length of the section if
    /// it ends in the block.
    #[inline(always)]
    fn block(
        &self,
        at: usize,
        masks: Masks,
        cr_before: bool,
        position: &mut ScanPosition,
        lines: &mut Lines,
    ) -> Result<Option<usize>, Fault> {
        let Masks { lf, cr, delimiters, controls } = masks;
        let begins = lf << 1 | u64::from(position.name_end == UNKNOWN_END);
        // The missing bytes of a block of less than 64 count as token bytes: no name ends there.
        let name_ends = (!delimiters).wrapping_add(begins) & delimiters;
        let (mut events, mut bare_lf) = (name_ends | lf, NO_BIT);
        // A block is regular if each LF follows a CR and each CR is followed by an LF within it.
        let after_cr = cr << 1 | u64::from(cr_before);
        let is_irregular = (after_cr ^ lf) | controls != 0;
        if is_irregular {
            bare_lf = (lf & !after_cr).trailing_zeros();
            position.has_suspect |= (after_cr & !lf) | controls != 0;
            if bare_lf != NO_BIT {
                events &= (1 << bare_lf) - 1; // the events before it
            }
        }
        loop {
            if position.name_end == UNKNOWN_END {
                if events == 0 {
                    break;
                }
                position.name_end = at + events.trailing_zeros() as usize;
                events &= events - 1;
            }
            if events == 0 {
                break;
            }
            let lf = at + events.trailing_zeros() as usize;
            events &= events - 1;
            if self.line(lf, is_irregular, position, lines)? {
                return Ok(Some(lf + 1));
            }
        }
        if bare_lf == NO_BIT {
            return Ok(None);
        }
        let fault = start_fault(self.section, self.limits, *position, at + bare_lf as usize);
        Err(fault.unwrap_or(Fault::LineEnd))
    }

    /// Records a complete line, which ends with the CRLF at `lf`, in a block that is regular or not.
    /// Returns whether it is the empty line at the end.
    #[inline(always)]
    fn line(
        &self,
        lf: usize,
        is_irregular: bool,
        position: &mut ScanPosition,
        lines: &mut Lines,
    ) -> Result<bool, Fault> {
        let ScanPosition { line_start: at, name_end, .. } = *position;
        let end = lf - 1;
        if position.in_start_line {
            if let Some(fault) = start_fault(self.section, self.limits, *position, lf) {
                return Err(fault);
            }
            position.in_start_line = lines.start_line(*position, end, self.section)?;
        } else {
            if self.input[name_end] != b':' || name_end == at {
                return if at == end { Ok(true) } else { Err(name_fault(self.input[at])) };
            }
            // Nearly all senders write exactly one space.
            let from = name_end + 1 + usize::from(self.input[name_end + 1] == b' ');
            let mut value = (from, end);
            // Not a space, a tab, or the CR of an empty value.
            let plain = self.input[from] > b' ' && self.input[end - 1] > b' ';
            if !plain || position.has_suspect {
                value = self.irregular_value(*position, value)?;
                position.has_suspect &= is_irregular; // a control byte of an earlier block was in this line
            }
            if lines.fields.len() >= self.limits.fields || name_end - at > self.limits.name_bytes {
                return Err(Fault::FieldsTooLarge);
            }
            let field = Field { name: span(at, name_end), value: span(value.0, value.1) };
            lines.fields.push(field);
        }
        position.line_start = lf + 1;
        position.name_end = UNKNOWN_END;
        Ok(false)
    }

    /// Trims and checks a value with more white space around it than one leading space, or with a possible
    /// control byte.
    #[cold]
    fn irregular_value(
        &self,
        position: ScanPosition,
        (mut from, mut to): (usize, usize),
    ) -> Result<(usize, usize), Fault> {
        let raw = (from, to);
        while from < to && is_white(self.input[from]) {
            from += 1;
        }
        while from < to && is_white(self.input[to - 1]) {
            to -= 1;
        }
        // Legal, but readers that do not trim it see an unknown coding and may read the body as the
        // next message.
        let name = &self.input[position.line_start..position.name_end];
        if (from, to) != raw && name.eq_ignore_ascii_case(TRANSFER_ENCODING) {
            return Err(Fault::TransferEncoding);
        }
        if position.has_suspect && !scan::is_field_value(&self.input[from..to]) {
            return Err(Fault::FieldValue);
        }
        Ok((from, to))
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

impl Field {
    /// Returns the name in lower case with its meaning, and the value as bytes.
    #[inline(always)]
    pub(super) fn read<'a>(
        &self,
        head: &'a [u8],
        lines: &Lines,
    ) -> Result<(HeaderName, KnownField, &'a [u8]), Fault> {
        let (name, known) = name::parse(&head[range(self.name)]).ok_or(Fault::FieldName)?;
        let value = &head[range(self.value)];
        if lines.has_folded && known != KnownField::Other && lenient::is_folded(value) {
            return Err(Fault::Folded); // readers differ, so no leniency allows it
        }
        Ok((name, known, value))
    }

    /// Appends the field to the map, with a slice of `head` as its value. Fails if the map is full, since
    /// [`Limits::fields`] may exceed its maximum.
    #[inline(always)]
    pub(super) fn append(
        &self,
        map: &mut HeaderMap,
        name: HeaderName,
        head: &Bytes,
        lines: &Lines,
    ) -> Result<(), Fault> {
        let range = range(self.value);
        if lines.has_folded && lenient::is_folded(&head[range.clone()]) {
            return append(map, name, lenient::unfold(&head[range]));
        }
        append(map, name, head.slice(range))
    }
}

/// Appends a field whose value was checked.
#[inline(always)]
fn append(map: &mut HeaderMap, name: HeaderName, value: Bytes) -> Result<(), Fault> {
    let appended = map.try_append(name, scan::value(value));
    appended.map(|_| ()).map_err(|_| Fault::FieldsTooLarge)
}

fn span(from: usize, to: usize) -> Span {
    (offset(from), offset(to))
}

/// Returns an offset in a head, which [`Lines::read`] limits to 32 bits.
fn offset(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok());
    n as u32
}

/// Returns the span as a range.
pub(super) fn range(span: Span) -> std::ops::Range<usize> {
    span.0 as usize..span.1 as usize
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
