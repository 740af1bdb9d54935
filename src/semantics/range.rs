//! What part of a content a Range field asks for (RFC 9110 section 14), and what to say about it.

use http::{HeaderMap, HeaderValue, Method, header};

/// What to send of a content.
///
/// ```
/// use vestibule::semantics::range::{Part, parse};
///
/// assert_eq!(parse(b"bytes=0-499", 1000), Part::Slice { first: 0, last: 499 });
/// assert_eq!(parse(b"bytes=-300", 1000), Part::Slice { first: 700, last: 999 });
/// assert_eq!(parse(b"bytes=1000-", 1000), Part::Unsatisfiable);
/// assert_eq!(parse(b"lines=1-2", 1000), Part::Whole);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// Nothing: the content has no such bytes; a 416.
    Unsatisfiable,
}

/// What a request asks for of a content of `len` bytes, if its If-Range (if any) holds.
///
/// Only GET can ask for a part (RFC 9110 section 14.2). A Range field that comes twice is ignored.
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

/// What a Range field value asks for of a content of `len` bytes.
///
/// A field that is malformed or in an unknown unit is ignored, as RFC 9110 section 14.2 tells.
/// So is one that asks for several parts: a server may ignore any Range, no client needs
/// `multipart/byteranges`, and many small or overlapping parts are how servers were worn out.
pub fn parse(value: &[u8], len: u64) -> Part {
    let Some((unit, set)) = split_once(value.trim_ascii(), b'=') else { return Part::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Part::Whole;
    }
    // A comma is no digit, so several parts fall out here as well.
    let Some((first, last)) = split_once(set.trim_ascii(), b'-') else { return Part::Whole };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if first > last => Part::Whole,
        (Number::Is(first), Number::Is(last)) => slice(first, last, len),
        (Number::Is(first), Number::Absent) => slice(first, u64::MAX, len),
        (Number::Absent, Number::Is(0)) => Part::Unsatisfiable,
        // No part of an empty content can be written down, but the last bytes of it are all of it.
        (Number::Absent, Number::Is(_)) if len == 0 => Part::Whole,
        (Number::Absent, Number::Is(suffix)) => slice(len.saturating_sub(suffix), u64::MAX, len),
        _ => Part::Whole,
    }
}

/// The Content-Range value of a 206.
pub fn content_range(first: u64, last: u64, len: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes {first}-{last}/{len}")).expect("digits")
}

/// The Content-Range value of a 416, which tells the client the length that it misjudged.
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

/// Digits, saturating: a position beyond `u64` is beyond every content, which is all that counts.
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
    fn beyond_the_end_is_unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(parse(value.as_bytes(), 10), Part::Unsatisfiable, "{value}");
        }
        assert_eq!(parse(b"bytes=0-", 0), Part::Unsatisfiable);
        assert_eq!(parse(b"bytes=-5", 0), Part::Whole);
    }

    #[test]
    fn numbers_beyond_u64_saturate() {
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
    fn several_ranges_are_ignored() {
        for value in ["bytes=0-,0-,0-", "bytes=0-1,3-4", "bytes=-1,", "bytes=,0-1"] {
            assert_eq!(parse(value.as_bytes(), 10), Part::Whole, "{value}");
        }
        let many = format!("bytes={}", "0-0,".repeat(10_000));
        assert_eq!(parse(many.as_bytes(), 10), Part::Whole);
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
    fn only_get_asks_for_a_part_and_only_once() {
        let mut headers = HeaderMap::new();
        headers.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(requested(&Method::GET, &headers, 10), part(0, 1));
        assert_eq!(requested(&Method::HEAD, &headers, 10), Part::Whole);
        headers.append(header::RANGE, HeaderValue::from_static("bytes=2-3"));
        assert_eq!(requested(&Method::GET, &headers, 10), Part::Whole);
    }
}
