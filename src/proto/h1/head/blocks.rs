//! Reads lines in blocks of 64 bytes, by the strict grammar.

use super::{
    Field, Lines, ScanPosition, Section, TRANSFER_ENCODING, UNKNOWN_END, field::span, is_white,
    name_fault, start_fault,
};
use crate::proto::h1::{
    Fault, Limits,
    scan::{self, BLOCK, Masks, Scan, Work},
};

/// The result of [`u64::trailing_zeros`] if no bit is set.
const NO_BIT: u32 = u64::BITS;

/// One call of [`Lines::read`].
pub(super) struct ReadLines<'a> {
    pub(super) lines: &'a mut Lines,
    /// The input, cut to the bound of the section.
    pub(super) input: &'a [u8],
    pub(super) section: &'a Section,
    pub(super) limits: &'a Limits,
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
