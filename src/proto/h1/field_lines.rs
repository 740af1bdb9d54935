//! [`FieldLines`]: heads without a start line, for the other protocols of this stratum.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{
    Fault, Limits,
    head::{Lines, Section, range},
};

/// A reader of field lines without a start line, up to the empty line, with the grammar of this module.
/// Lines end in CRLF or in LF alone.
#[derive(Debug)]
pub(in crate::proto) struct FieldLines {
    lines: Lines,
    limits: Limits,
}

impl FieldLines {
    /// Creates a reader with bounds on the whole head, the number of fields, and a name.
    pub(in crate::proto) fn new(head_bytes: usize, fields: usize, name_bytes: usize) -> Self {
        let limits = Limits { head_bytes, fields, name_bytes, ..Limits::default() };
        Self { lines: Lines::default(), limits }
    }

    /// Discards the lines that were read.
    pub(in crate::proto) fn clear(&mut self) {
        self.lines.clear();
    }

    /// Returns the length of the head at the front of `input`, with its empty line; `None` if it is not
    /// complete. Call it again with the same bytes and more after them.
    pub(in crate::proto) fn read(&mut self, input: &[u8]) -> Result<Option<usize>, Fault> {
        self.lines.read(input, Section::of_bare_lf_fields(&self.limits), &self.limits)
    }

    /// Returns the fields of a complete head for which `keep` returns `true`, in order; values are slices
    /// of `head`.
    pub(in crate::proto) fn parse<E: From<Fault>>(
        &self,
        head: &Bytes,
        mut keep: impl FnMut(&HeaderName, &[u8]) -> Result<bool, E>,
    ) -> Result<HeaderMap, E> {
        let mut headers = HeaderMap::new();
        self.lines.reserve(&mut headers)?;
        for field in &self.lines.fields {
            let (name, _, value) = field.read(head, &self.lines)?;
            debug_assert_eq!(value, &head[range(field.value)], "no folded lines");
            if keep(&name, value)? {
                field.append(&mut headers, name, head, &self.lines)?;
            }
        }
        Ok(headers)
    }
}
