//! `Field`: a field line of a head.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::{Lines, lenient};
use crate::proto::h1::{
    Fault,
    name::{self, KnownField},
    scan,
};

/// A range of offsets, `.0 .. .1`. [`Lines::read`] limits heads to 4 GiB.
pub(in crate::proto::h1) type Span = (u32, u32);

/// A field line.
#[derive(Debug, Clone, Copy)]
pub(in crate::proto::h1) struct Field {
    pub(in crate::proto::h1) name: Span,
    pub(in crate::proto::h1) value: Span,
}

impl Field {
    /// Returns the name in lower case with its meaning, and the value as bytes.
    #[inline(always)]
    pub(in crate::proto::h1) fn read<'a>(
        &self,
        head: &'a [u8],
        lines: &Lines,
    ) -> Result<(HeaderName, KnownField, &'a [u8]), Fault> {
        let (name, known) = name::parse(&head[range(self.name)]).ok_or(Fault::FieldName)?;
        let value = &head[range(self.value)];
        let may_fold = matches!(known, KnownField::Other | KnownField::ContentType);
        if lines.has_folded && !may_fold && lenient::is_folded(value) {
            return Err(Fault::Folded); // readers differ, so no leniency allows it
        }
        Ok((name, known, value))
    }

    /// Appends the field to the map, with a slice of `head` as its value. Fails if the map is full, since
    /// [`Limits::fields`] may exceed its maximum.
    #[inline(always)]
    pub(in crate::proto::h1) fn append(
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

pub(super) fn span(from: usize, to: usize) -> Span {
    (offset(from), offset(to))
}

/// Returns an offset in a head, which [`Lines::read`] limits to 32 bits.
pub(super) fn offset(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok());
    n as u32
}

/// Returns the span as a range.
pub(in crate::proto::h1) fn range(span: Span) -> Range<usize> {
    span.0 as usize..span.1 as usize
}
