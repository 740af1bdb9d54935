//! A head, or trailers, line by line: each byte is looked at once, however the bytes arrive.

mod lenient;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{
    Fault, Lenient, Limits,
    name::{self, Role},
    scan::{self, BLOCK, Masks, Scan, Work},
};
/// Where the lines of a head are, found so far. Offsets count from the head's first byte.
#[derive(Debug, Default)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Lines {
    place: Place,
    /// The start line, without CRLF; empty until it is complete.
    pub(super) start: Span,
    /// The token at the start line's beginning ends here.
    pub(super) start_token: u32,
    empty_lines: u8,
    over: bool,
    /// Some value goes over a line's end.
    folded: bool,
    /// The field lines, in order.
    pub(super) fields: Vec<Field>,
}

/// How far the bytes have been looked at.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Beginning of the line that is not yet complete.
    line: usize,
    /// Up to here everything has been looked at. `line <= scanned <= bytes so far`.
    scanned: usize,
    /// Where the token at that line's beginning ends, or [`OPEN`] while it goes on.
    name_end: usize,
    /// That line may hold a control byte: look again when it is complete.
    suspect: bool,
    /// A start line comes first, and is not complete.
    start_line: bool,
}

/// The token at a line's beginning has not ended yet.
const OPEN: usize = usize::MAX;

/// No bit of a block, as [`u64::trailing_zeros`] has it.
const NONE: u32 = u64::BITS;

impl Default for Place {
    fn default() -> Self {
        Self { line: 0, scanned: 0, name_end: OPEN, suspect: false, start_line: false }
    }
}

/// Fields that there is room for from the start: a browser's head in one go.
const FIELDS: usize = 16;

/// Empty lines that are skipped before a request: RFC 9112 section 2.2 asks for at least one, and
/// some old clients send two behind a body.
const EMPTY_LINES: u8 = 2;

/// Room for more fields than this, 2 KiB, is not kept for the next head.
const KEPT_FIELDS: usize = 128;

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
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Section {
    /// Does it begin with a start line?
    pub(super) start_line: bool,
    /// Empty lines that may come before the start line.
    pub(super) empty_lines: u8,
    /// Bytes that the token at the start line's beginning may have.
    pub(super) method_bytes: usize,
    pub(super) bytes: usize,
    pub(super) lenient: Lenient,
}

impl Section {
    pub(super) fn of_request(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        Self {
            start_line: true,
            empty_lines: EMPTY_LINES,
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

    /// Trailers are never folded, whoever sends them.
    pub(super) fn of_trailers(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        // Where no trailers are allowed the empty line that ends them still is.
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
    /// Has nothing been seen yet, but for empty lines before the start line?
    pub(super) fn is_new(&self) -> bool {
        self.start.1 == 0 && self.place.scanned == self.place.line
    }

    /// Was the empty line found?
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// At the beginning again; what was allocated is kept, unless it is much.
    pub(super) fn clear(&mut self) {
        let Self { place, start, start_token, empty_lines, over, folded, fields } = self;
        fields.clear();
        if fields.capacity() > KEPT_FIELDS {
            *fields = Vec::new();
        }
        (*place, *start, *start_token) = (Place::default(), (0, 0), 0);
        (*empty_lines, *over, *folded) = (0, false, false);
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
            self.fields.reserve(FIELDS);
        }
        let most = section.bytes.min(u32::MAX as usize);
        let input = &input[..input.len().min(most)];
        let section = &section;
        self.place.start_line = section.start_line && self.start.1 == 0;
        let found = if section.lenient.lines() {
            lenient::Reading { lines: self, input, section, limits }.read()?
        } else {
            scan::dispatch(Call { lines: self, input, section, limits })?
        };
        self.over = found.is_some();
        if self.over {
            return Ok(found);
        }
        if let Some(fault) = start_fault(section, limits, self.place, input.len()) {
            return Err(fault);
        }
        if input.len() < most {
            return Ok(None);
        }
        Err(if self.place.start_line { Fault::StartLineTooLong } else { Fault::FieldsTooLarge })
    }

    /// The start line, from `place` to `end`, or an empty line before it: is it still to come?
    #[inline(always)]
    fn start_line(&mut self, place: Place, end: usize, section: &Section) -> Result<bool, Fault> {
        if place.line == end {
            self.empty_lines += 1;
            if self.empty_lines > section.empty_lines {
                return Err(Fault::EmptyLines);
            }
            return Ok(true);
        }
        self.start = span(place.line, end);
        self.start_token = offset(place.name_end);
        Ok(false)
    }

    /// Gives an empty map room for the fields; [`Field::append`] fills it.
    pub(super) fn make_room(&self, map: &mut HeaderMap) -> Result<(), Fault> {
        map.try_reserve(self.fields.len()).map_err(|_| Fault::FieldsTooLarge)
    }
}

/// One call of [`Lines::read`].
struct Call<'a> {
    lines: &'a mut Lines,
    input: &'a [u8],
    section: &'a Section,
    limits: &'a Limits,
}

impl Work for Call<'_> {
    type Output = Result<Option<usize>, Fault>;

    #[inline(always)]
    fn run<S: Scan>(self, scan: S) -> Self::Output {
        let Call { lines, input, section, limits } = self;
        let mut place = lines.place;
        let reading = Reading { input, section, limits };
        let mut cr_before = place.scanned > 0 && input[place.scanned - 1] == b'\r';
        while place.scanned < input.len() {
            let at = place.scanned;
            let masks = scan.block(input, at);
            let found = reading.block(at, masks, cr_before, &mut place, lines)?;
            if found.is_some() {
                return Ok(found);
            }
            cr_before = masks.cr >> (BLOCK - 1) != 0;
            place.scanned = input.len().min(at + BLOCK);
            if place.line <= at && place.name_end != OPEN && !cr_before {
                // In the middle of a long value: only a control byte matters.
                place.scanned += scan.plain_len(input, place.scanned);
            }
        }
        lines.place = place;
        Ok(None)
    }
}

/// The bytes, of which no more than there may be, and what they are measured by.
///
/// They are looked at in blocks of 64, as bit masks. In a block, the first delimiter after each
/// line's beginning is where its name ends: adding the bits of the beginnings to those of the token
/// bytes carries through each name and comes out behind it. So a block with five fields in it costs
/// ten steps over set bits, and no look at single bytes.
///
/// The [`Place`] is a local of [`Call::run`] and given to inlined functions alone: it stays in
/// registers.
struct Reading<'a> {
    input: &'a [u8],
    section: &'a Section,
    limits: &'a Limits,
}

impl Reading<'_> {
    /// Goes over the names and lines that end in the block at `at`.
    #[inline(always)]
    fn block(
        &self,
        at: usize,
        masks: Masks,
        cr_before: bool,
        place: &mut Place,
        lines: &mut Lines,
    ) -> Result<Option<usize>, Fault> {
        let Masks { lf, cr, delimiters, controls } = masks;
        let begins = lf << 1 | u64::from(place.name_end == OPEN);
        // Where the block has less than 64 bytes the rest counts as token: no name ends there.
        let name_ends = (!delimiters).wrapping_add(begins) & delimiters;
        let (mut events, mut bare_lf) = (name_ends | lf, NONE);
        // Each LF has its CR, and each CR its LF. One that is still to come makes the block odd too.
        let after_cr = cr << 1 | u64::from(cr_before);
        let odd = (after_cr ^ lf) | controls != 0;
        if odd {
            bare_lf = (lf & !after_cr).trailing_zeros();
            place.suspect |= (after_cr & !lf) | controls != 0;
            if bare_lf != NONE {
                events &= (1 << bare_lf) - 1; // what comes before it
            }
        }
        loop {
            if place.name_end == OPEN {
                if events == 0 {
                    break;
                }
                place.name_end = at + events.trailing_zeros() as usize;
                events &= events - 1;
            }
            if events == 0 {
                break;
            }
            let lf = at + events.trailing_zeros() as usize;
            events &= events - 1;
            if self.line(lf, odd, place, lines)? {
                return Ok(Some(lf + 1));
            }
        }
        if bare_lf == NONE {
            return Ok(None);
        }
        let fault = start_fault(self.section, self.limits, *place, at + bare_lf as usize);
        Err(fault.unwrap_or(Fault::LineEnd))
    }

    /// A line is complete, it ends at `lf` behind a CR in an odd block or not. Is it the empty one at
    /// the end?
    #[inline(always)]
    fn line(
        &self,
        lf: usize,
        odd: bool,
        place: &mut Place,
        lines: &mut Lines,
    ) -> Result<bool, Fault> {
        let Place { line: at, name_end, .. } = *place;
        let end = lf - 1;
        if place.start_line {
            if let Some(fault) = start_fault(self.section, self.limits, *place, lf) {
                return Err(fault);
            }
            place.start_line = lines.start_line(*place, end, self.section)?;
        } else {
            if self.input[name_end] != b':' || name_end == at {
                return if at == end { Ok(true) } else { Err(no_name(self.input[at])) };
            }
            // One space is what everybody writes.
            let from = name_end + 1 + usize::from(self.input[name_end + 1] == b' ');
            let mut value = (from, end);
            // Neither a space nor a tab, nor the CR of an empty value.
            let plain = self.input[from] > b' ' && self.input[end - 1] > b' ';
            if !plain || place.suspect {
                value = self.odd_value(*place, value)?;
                place.suspect &= odd; // what was suspect before was in this line
            }
            if lines.fields.len() >= self.limits.fields || name_end - at > self.limits.name_bytes {
                return Err(Fault::FieldsTooLarge);
            }
            let field = Field { name: span(at, name_end), value: span(value.0, value.1) };
            lines.fields.push(field);
        }
        place.line = lf + 1;
        place.name_end = OPEN;
        Ok(false)
    }

    /// A value with more white space around it than one space in front, or with a suspect in it.
    #[cold]
    fn odd_value(
        &self,
        place: Place,
        (mut from, mut to): (usize, usize),
    ) -> Result<(usize, usize), Fault> {
        let raw = (from, to);
        while from < to && is_white(self.input[from]) {
            from += 1;
        }
        while from < to && is_white(self.input[to - 1]) {
            to -= 1;
        }
        // Legal, but there are readers that do not take it away, see an unknown coding and take
        // the body for the next message.
        let name = &self.input[place.line..place.name_end];
        if (from, to) != raw && name.eq_ignore_ascii_case(TRANSFER_ENCODING) {
            return Err(Fault::TransferEncoding);
        }
        if place.suspect && !scan::is_field_value(&self.input[from..to]) {
            return Err(Fault::FieldValue);
        }
        Ok((from, to))
    }
}

/// Why there is no name with a colon right behind it (RFC 9112 section 5.1): a line that begins
/// with white space is folded.
#[cold]
fn no_name(first: u8) -> Fault {
    if is_white(first) { Fault::Folded } else { Fault::FieldName }
}

/// The start line, if it is not over at `end`, may be too long, and its method first of all. Bounds
/// come first: else the fault would depend on how much had come at once.
#[inline(always)]
fn start_fault(section: &Section, limits: &Limits, place: Place, end: usize) -> Option<Fault> {
    if !place.start_line {
        return None;
    }
    if place.name_end.min(end) - place.line > section.method_bytes {
        return Some(Fault::MethodTooLong); // whatever comes behind it
    }
    let too_long = end - place.line > limits.start_line_bytes.saturating_add(1);
    too_long.then_some(Fault::StartLineTooLong)
}

fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

impl Field {
    /// The name in lower case with its role, and the value as bytes.
    #[inline(always)]
    pub(super) fn read<'a>(
        &self,
        head: &'a [u8],
        lines: &Lines,
    ) -> Result<(HeaderName, Role, &'a [u8]), Fault> {
        let (name, role) = name::parse(&head[range(self.name)]).ok_or(Fault::FieldName)?;
        let value = &head[range(self.value)];
        if lines.folded && role != Role::Other && lenient::is_folded(value) {
            return Err(Fault::Folded); // readers differ on these, whoever asked for folding
        }
        Ok((name, role, value))
    }

    /// Appends it, its value a slice of `head`, unless there are more than a map can hold:
    /// [`Limits::fields`] may allow that.
    #[inline(always)]
    pub(super) fn append(
        &self,
        map: &mut HeaderMap,
        name: HeaderName,
        head: &Bytes,
        lines: &Lines,
    ) -> Result<(), Fault> {
        let range = range(self.value);
        if lines.folded && lenient::is_folded(&head[range.clone()]) {
            return append(map, name, lenient::unfold(&head[range]));
        }
        append(map, name, head.slice(range))
    }
}

/// Appends a field whose value was looked at.
#[inline(always)]
fn append(map: &mut HeaderMap, name: HeaderName, value: Bytes) -> Result<(), Fault> {
    let appended = map.try_append(name, scan::value(value));
    appended.map(|_| ()).map_err(|_| Fault::FieldsTooLarge)
}

fn span(from: usize, to: usize) -> Span {
    (offset(from), offset(to))
}

/// A place in a head: [`Lines::read`] sees to it that there are no more than 32 bits of them.
fn offset(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok());
    n as u32
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
    fn each_byte_of_head_is_read_once() {
        let limits = Limits { fields: 4_000, ..Limits::default() };
        let section = Section::of_request(&limits);
        let room = limits.head_bytes - "GET / HTTP/1.1\r\n\r\n".len();
        let one_value = format!("X: {}\r\n", "a".repeat(room - 5));
        let many_lines = "a: bcde\r\n".repeat(room / 9);
        for fields in [one_value, many_lines] {
            let head = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            let (mut lines, mut looked_at) = (Lines::default(), 0);
            for n in 1..=head.len() {
                looked_at += n - lines.place.scanned;
                let found = lines.read(&head.as_bytes()[..n], section, &limits);
                assert_eq!(found, Ok((n == head.len()).then_some(n)));
                assert!(found == Ok(Some(n)) || lines.place.scanned == n);
            }
            assert_eq!(looked_at, head.len());
        }
    }
}
