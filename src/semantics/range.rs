//! Range requests (RFC 9110 section 14): parsing `Range`, writing `Content-Range`.

use http::{HeaderMap, HeaderValue, Method, header};

/// The part of a representation to send.
///
/// ```
/// use vestibule::semantics::range::{Part, parse};
///
/// assert_eq!(parse(b"bytes=0-499", 1000), Part::Slice { first: 0, last: 499 });
/// assert_eq!(parse(b"bytes=-300", 1000), Part::Slice { first: 700, last: 999 });
/// assert_eq!(parse(b"bytes=1000-", 1000), Part::Unsatisfiable);
/// assert_eq!(parse(b"lines=1-2", 1000), Part::Whole);
/// assert_eq!(parse(b"bytes=0-9,500-509", 1000), Part::Several(vec![(0, 9), (500, 509)]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it, with a 200.
    Whole,
    /// The bytes `first` to `last`, both included, with a 206; `first <= last < len`.
    Slice {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: u64,
    },
    /// Several slices as (first, last), in the requested order, with a 206 of `multipart/byteranges`. At
    /// least two and at most [`MAX_PARTS`]; no two overlap.
    Several(Vec<(u64, u64)>),
    /// No part: none lies within the content, or several overlap. A 416.
    Unsatisfiable,
}

/// The maximum number of parts in a response, 64. Viewers of large documents request some dozens. A request for more is
/// answered with the whole content, which costs less than so many parts.
pub const MAX_PARTS: usize = 64;

/// The maximum gap between parts that are joined, 80 bytes: the head of a part takes about as much (RFC 9110 section
/// 15.3.7.2).
const GAP: u64 = 80;

/// Returns the part of a content of `len` bytes that a request selects, provided that its `If-Range`, if
/// any, holds.
///
/// Only GET can select a part (RFC 9110 section 14.2). A repeated `Range` field is ignored.
pub fn requested(method: &Method, headers: &HeaderMap, len: u64) -> Part {
    if method != Method::GET {
        return Part::Whole;
    }
    let mut fields = headers.get_all(header::RANGE).iter();
    match (fields.next(), fields.next()) {
        (Some(value), None) => parse(value.as_bytes(), len),
        _ => Part::Whole,
    }
}

/// Parses a `Range` field value for a content of `len` bytes.
///
/// A field that is malformed, in an unknown unit or with more than [`MAX_PARTS`] ranges is ignored (RFC
/// 9110 section 14.2), and so is any range of an empty content. Ranges beyond the end are left out;
/// ranges in order with a small gap are joined. Two consecutive ranges that overlap are joined too: a
/// client that requests the head and the tail of a file does not know how short it is. More overlaps are
/// refused (section 17.15 names them as a denial of service).
pub fn parse(value: &[u8], len: u64) -> Part {
    let Some((unit, set)) = split_once(value.trim_ascii(), b'=') else { return Part::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes") || len == 0 {
        return Part::Whole;
    }
    if memchr::memchr(b',', set).is_none() {
        return one(set.trim_ascii(), len);
    }
    several(set, len)
}

/// Parses one range-spec (RFC 9110 section 14.1.1).
fn one(spec: &[u8], len: u64) -> Part {
    let Some((first, last)) = split_once(spec, b'-') else { return Part::Whole };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if first > last => Part::Whole,
        (Number::Is(first), Number::Is(last)) => slice(first, last, len),
        (Number::Is(first), Number::Absent) => slice(first, u64::MAX, len),
        (Number::Absent, Number::Is(0)) => Part::Unsatisfiable,
        (Number::Absent, Number::Is(suffix)) => slice(len.saturating_sub(suffix), u64::MAX, len),
        _ => Part::Whole,
    }
}

/// Parses a list of range-specs; empty elements are allowed (RFC 9110 section 5.6.1.2).
fn several(set: &[u8], len: u64) -> Part {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let (mut specs, mut malformed) = (0, false);
    for spec in set.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|s| !s.is_empty()) {
        specs += 1;
        if specs > MAX_PARTS {
            return Part::Whole;
        }
        match one(spec, len) {
            Part::Slice { first, last } => parts.push((first, last)),
            Part::Unsatisfiable => {}
            Part::Whole | Part::Several(_) => malformed = true,
        }
    }
    if malformed || specs == 0 {
        return Part::Whole;
    }
    let joined = joined(&parts);
    parts = match (overlaps(&parts), overlaps(&joined)) {
        (0 | 1, 0) => joined,
        // One lies in the gap between two others, so these must stay apart.
        (0, _) => parts,
        _ => return Part::Unsatisfiable,
    };
    match *parts {
        [] => Part::Unsatisfiable,
        [(first, last)] => Part::Slice { first, last },
        _ => Part::Several(parts),
    }
}

/// Counts the parts that begin before the end of a part that begins earlier.
fn overlaps(parts: &[(u64, u64)]) -> usize {
    let mut sorted = parts.to_vec();
    sorted.sort_unstable();
    let (mut end, mut overlaps) = (None, 0);
    for (first, last) in sorted {
        overlaps += usize::from(end.is_some_and(|end| first <= end));
        end = end.max(Some(last));
    }
    overlaps
}

/// Joins consecutive parts that overlap or have a gap of at most [`GAP`].
fn joined(parts: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = Vec::with_capacity(parts.len());
    for &(first, last) in parts {
        match all.last_mut() {
            Some((start, end)) if first <= end.saturating_add(GAP + 1) && *start <= last => {
                (*start, *end) = (first.min(*start), last.max(*end));
            }
            _ => all.push((first, last)),
        }
    }
    all
}

/// Returns the `Content-Range` value of a 206.
pub fn content_range(first: u64, last: u64, len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes {first}-{last}/{len}")).expect("digits")
}

/// Returns the `Content-Range` value of a 416, with the length of the content.
pub fn content_range_unsatisfied(len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{len}")).expect("digits")
}

fn slice(first: u64, last: u64, len: u64) -> Part {
    if first >= len {
        return Part::Unsatisfiable;
    }
    Part::Slice { first, last: last.min(len - 1) }
}

#[derive(Clone, Copy)]
enum Number {
    Is(u64),
    Absent,
    Bad,
}

/// Parses digits and saturates: a position beyond `u64` is beyond the end of every content.
fn number(digits: &[u8]) -> Number {
    if digits.is_empty() {
        return Number::Absent;
    }
    let mut n = 0u64;
    for &b in digits {
        if !b.is_ascii_digit() {
            return Number::Bad;
        }
        n = n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    }
    Number::Is(n)
}

fn split_once(value: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let i = memchr::memchr(at, value)?;
    Some((&value[..i], &value[i + 1..]))
}

#[cfg(test)]
mod tests;
