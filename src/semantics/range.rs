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
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> Part {
        Part::Slice { first, last }
    }

    #[test]
    fn single_ranges_are_cut_to_the_content() {
        let table = [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-9", part(0, 9)),
            ("bytes=0-10", part(0, 9)),
            ("bytes=9-", part(9, 9)),
            ("BYTES=1-2", part(1, 2)),
            (" bytes= 1-2 ", part(1, 2)),
            ("bytes=-1", part(9, 9)),
            ("bytes=-10", part(0, 9)),
            ("bytes=-11", part(0, 9)),
        ];
        for (value, want) in table {
            assert_eq!(parse(value.as_bytes(), 10), want, "{value}");
        }
    }

    #[test]
    fn range_beyond_the_end_is_unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(parse(value.as_bytes(), 10), Part::Unsatisfiable, "{value}");
        }
        for value in ["bytes=0-", "bytes=0-1023", "bytes=-5", "bytes=0-0,-5", "bytes=7-"] {
            assert_eq!(parse(value.as_bytes(), 0), Part::Whole, "{value} of nothing");
        }
    }

    #[test]
    fn range_numbers_beyond_u64_saturate() {
        let big = "9".repeat(200);
        assert_eq!(parse(format!("bytes={big}-").as_bytes(), 10), Part::Unsatisfiable);
        assert_eq!(parse(format!("bytes={big}-{big}").as_bytes(), 10), Part::Unsatisfiable);
        assert_eq!(parse(format!("bytes=3-{big}").as_bytes(), 10), part(3, 9));
        assert_eq!(parse(format!("bytes=-{big}").as_bytes(), 10), part(0, 9));
        // The shape of CVE-2017-7529: suffix and length together wrapped around.
        assert_eq!(
            parse(b"bytes=-9223372036854775608", u64::MAX),
            part(9223372036854776007, u64::MAX - 1)
        );
    }

    #[test]
    fn several_ranges_are_parts_in_the_requested_order() {
        let table = [
            ("bytes=0-1,500-501", vec![(0, 1), (500, 501)]),
            ("bytes=500-501 , 0-1", vec![(500, 501), (0, 1)]),
            ("bytes=,0-1,,900-,", vec![(0, 1), (900, 999)]),
            ("bytes=0-1,-1,2000-", vec![(0, 1), (999, 999)]),
            ("bytes=0-1,82-82,200-300", vec![(0, 82), (200, 300)]),
            ("bytes=0-1,83-83", vec![(0, 1), (83, 83)]),
            // In the gap of two that would be joined.
            ("bytes=0-10,50-60,500-600,20-30", vec![(0, 10), (50, 60), (500, 600), (20, 30)]),
            ("bytes=900-901,0-10,50-60", vec![(900, 901), (0, 60)]),
        ];
        for (value, want) in table {
            assert_eq!(parse(value.as_bytes(), 1000), Part::Several(want), "{value}");
        }
        assert_eq!(parse(b"bytes=0-1,2000-", 1000), part(0, 1));
        assert_eq!(parse(b"bytes=0-1,2-3", 1000), part(0, 3));
        assert_eq!(parse(b"bytes=-1,", 10), part(9, 9));
        // Head and tail of a content that is shorter than both.
        for value in ["bytes=0-0,-1", "bytes=0-1023,-1024", "bytes=-1024,0-1023", "bytes=0-,0-"] {
            assert_eq!(parse(value.as_bytes(), 1), part(0, 0), "{value}");
        }
        assert_eq!(parse(b"bytes=0-10,50-60,20-30,40-45", 1000), part(0, 60));
        assert_eq!(parse(b"bytes=300-400,0-350", 1000), part(0, 400));
        assert_eq!(parse(b"bytes=0-500,300-400", 1000), part(0, 500));
    }

    #[test]
    fn parts_that_overlap_are_refused_and_too_many_ignored() {
        for value in [
            "bytes=0-,0-,0-",
            "bytes=0-500,300-400,200-600",
            "bytes=0-500,600-700,0-500",
            "bytes=0-1,1-2,900-901,901-902",
            "bytes=0-100,500-600,50-60",
            "bytes=0-10,50-60,500-600,20-30,25-26",
            "bytes=2000-,3000-",
        ] {
            assert_eq!(parse(value.as_bytes(), 1000), Part::Unsatisfiable, "{value}");
        }
        let some = |n: usize| {
            let specs: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 100)).collect();
            parse(format!("bytes={}", specs.join(",")).as_bytes(), u64::MAX)
        };
        assert!(matches!(some(MAX_PARTS), Part::Several(parts) if parts.len() == MAX_PARTS));
        assert_eq!(some(MAX_PARTS + 1), Part::Whole);
        let many = format!("bytes={}", "0-0,".repeat(10_000));
        assert_eq!(parse(many.as_bytes(), 10), Part::Whole);
        assert_eq!(parse(b"bytes=,,", 10), Part::Whole);
        assert_eq!(parse(b"bytes=0-1,x", 10), Part::Whole);
    }

    #[test]
    fn requested_byte_is_in_exactly_one_part() {
        // Some thousand lists of up to five parts, against the plain definition.
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..5_000 {
            let mut asked = Vec::new();
            for _ in 0..=random(5) {
                let first = random(600);
                asked.push((first, first + random(120)));
            }
            let specs: Vec<_> = asked.iter().map(|(f, l)| format!("{f}-{l}")).collect();
            let value = format!("bytes={}", specs.join(","));
            let parts = match parse(value.as_bytes(), 1000) {
                Part::Slice { first, last } => vec![(first, last)],
                Part::Several(parts) => parts,
                Part::Unsatisfiable => {
                    assert!(overlaps(&asked) > 0, "{value}");
                    continue;
                }
                Part::Whole => panic!("{value}"),
            };
            assert!(parts.len() <= asked.len() && overlaps(&parts) == 0, "{value} {parts:?}");
            for (first, last) in asked {
                assert!(parts.iter().any(|p| p.0 <= first && last <= p.1), "{value} {parts:?}");
            }
        }
    }

    #[test]
    fn malformed_ranges_and_other_units_are_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-3",
            "bytes=1",
            "bytes=0x1-2",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes 0-1",
            "bytes=1-2-3",
            "bytes=--1",
            "seconds=0-1",
            "=0-1",
        ] {
            assert_eq!(parse(value.as_bytes(), 10), Part::Whole, "{value}");
        }
    }

    #[test]
    fn range_applies_only_to_get_and_only_once() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(requested(&Method::GET, &headers, 10), part(0, 1));
        assert_eq!(requested(&Method::HEAD, &headers, 10), Part::Whole);
        headers.append(header::RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(requested(&Method::GET, &headers, 10), Part::Whole);
    }
}
