//! Reads lines one by one with [leniencies](super::Lenient). Used only if one is enabled.

use bytes::Bytes;

use super::{
    super::{Fault, Limits, scan},
    Field, Lines, Section, UNKNOWN_END,
    field::span,
    is_white, name_fault, range, start_fault,
};

/// One call of [`Lines::read`].
pub(super) struct LineReader<'a> {
    pub(super) lines: &'a mut Lines,
    /// The input, cut to the bound of the section.
    pub(super) input: &'a [u8],
    pub(super) section: &'a Section,
    pub(super) limits: &'a Limits,
}

impl LineReader<'_> {
    pub(super) fn read(mut self) -> Result<Option<usize>, Fault> {
        while let Some(i) = memchr::memchr(b'\n', &self.input[self.lines.position.scanned..]) {
            let (at, lf) = (self.lines.position.line_start, self.lines.position.scanned + i);
            self.find_name_end();
            if let Some(fault) = start_fault(self.section, self.limits, self.lines.position, lf) {
                return Err(fault);
            }
            let end = match self.input[at..lf] {
                [.., b'\r'] => lf - 1,
                _ if self.section.lenient.bare_lf => lf,
                _ => return Err(Fault::LineEnd),
            };
            if self.line(at, end)? {
                return Ok(Some(lf + 1));
            }
            (self.lines.position.line_start, self.lines.position.scanned) = (lf + 1, lf + 1);
        }
        self.find_name_end();
        self.lines.position.scanned = self.input.len();
        Ok(None)
    }

    /// Finds the end of the method, within its bound.
    fn find_name_end(&mut self) {
        if !self.lines.position.in_start_line {
            return;
        }
        let at = self.lines.position.line_start;
        let line = &self.input[at..];
        let line = &line[..line.len().min(self.section.method_bytes.saturating_add(1))];
        let len = scan::token_len(line);
        self.lines.position.name_end = if len == line.len() { UNKNOWN_END } else { at + len };
    }

    /// Records a complete line. Returns whether it is the empty line at the end.
    fn line(&mut self, at: usize, end: usize) -> Result<bool, Fault> {
        let line = &self.input[at..end];
        let name_end = at + scan::token_len(line);
        if self.lines.position.in_start_line {
            self.lines.position.name_end = name_end;
            let position = self.lines.position;
            self.lines.position.in_start_line =
                self.lines.start_line(position, end, self.section)?;
        } else if line.is_empty() {
            return Ok(true);
        } else if is_white(line[0]) && self.section.lenient.folded_lines {
            self.fold(at, end)?;
        } else {
            self.field(at, name_end, end)?;
        }
        Ok(false)
    }

    fn field(&mut self, at: usize, name_end: usize, end: usize) -> Result<(), Fault> {
        let mut rest = &self.input[name_end..end];
        if self.section.lenient.space_before_colon {
            while let [b' ' | b'\t', after @ ..] = rest {
                rest = after;
            }
        }
        let [b':', raw @ ..] = rest else { return Err(name_fault(self.input[at])) };
        if name_end == at {
            return Err(name_fault(self.input[at]));
        }
        let value = scan::trim(raw);
        let name = &self.input[at..name_end];
        if raw.strip_prefix(b" ").unwrap_or(raw) != value
            && name.eq_ignore_ascii_case(super::TRANSFER_ENCODING)
        {
            return Err(Fault::TransferEncoding);
        }
        if !scan::is_field_value(value) {
            return Err(Fault::FieldValue);
        }
        if self.lines.fields.len() >= self.limits.fields || name.len() > self.limits.name_bytes {
            return Err(Fault::FieldsTooLarge);
        }
        let from = end - raw.len() + leading(raw, value);
        let value = span(from, from + value.len());
        self.lines.fields.push(Field { name: span(at, name_end), value });
        Ok(())
    }

    /// Appends a line to the value of the field before it.
    fn fold(&mut self, at: usize, end: usize) -> Result<(), Fault> {
        let line = scan::trim(&self.input[at..end]);
        if !scan::is_field_value(line) {
            return Err(Fault::FieldValue);
        }
        let Some(field) = self.lines.fields.last_mut() else { return Err(Fault::Folded) };
        // A line of only white space adds nothing to the value, but the field counts as folded:
        // some readers take such a line for the end of the head.
        let to = at + leading(&self.input[at..end], line) + line.len();
        field.value = span(range(field.value).start, to);
        self.lines.has_folded = true;
        Ok(())
    }
}

/// Returns the number of bytes of `raw` before `trimmed`, which is a subslice of it.
fn leading(raw: &[u8], trimmed: &[u8]) -> usize {
    trimmed.as_ptr().addr() - raw.as_ptr().addr()
}

/// Returns whether the value extends over a line end.
pub(super) fn is_folded(value: &[u8]) -> bool {
    memchr::memchr(b'\n', value).is_some()
}

/// Returns the value with spaces instead of its line ends, trimmed.
#[cold]
pub(super) fn unfold(value: &[u8]) -> Bytes {
    let mut value = value.to_vec();
    for byte in &mut value {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    Bytes::copy_from_slice(scan::trim(&value))
}
