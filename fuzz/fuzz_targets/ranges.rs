//! Invariant: the response to a Range field agrees with a simple model: each requested byte is in one part,
//! each other byte of a part lies in a small gap between two requested ones, parts do not overlap, and only a
//! field that overlaps or lies beyond the end is refused. A single range is exactly the model's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vestibule::semantics::range::{MAX_PARTS, Part, parse};

/// Longest gap between two parts that may be filled.
const GAP: usize = 80;

fuzz_target!(|data: &[u8]| {
    let Some((&[a, b], value)) = data.split_first_chunk::<2>() else { return };
    // A content that is short enough to mark each byte, and the longest one.
    let len = usize::from(u16::from_le_bytes([a, b]) % 4096);
    let part = parse(value, len as u64);
    check(value, len, &part);
    in_bounds(&parse(value, u64::MAX), u64::MAX);
});

/// A parsed range.
#[derive(Clone, Copy)]
enum Spec {
    Malformed,
    Beyond,
    Bytes(usize, usize),
}

fn check(value: &[u8], len: usize, part: &Part) {
    in_bounds(part, len as u64);
    let Some(specs) = specs(value, len) else {
        assert_eq!(*part, Part::Whole);
        return;
    };
    if specs.len() > MAX_PARTS || specs.iter().any(|s| matches!(s, Spec::Malformed)) {
        assert_eq!(*part, Part::Whole);
        return;
    }
    if let [one] = specs[..] {
        let want = match one {
            Spec::Bytes(first, last) => slice(first, last),
            _ => Part::Unsatisfiable,
        };
        assert_eq!(*part, want);
        return;
    }
    let mut asked = vec![0_usize; len];
    for spec in &specs {
        if let Spec::Bytes(first, last) = *spec {
            asked[first..=last].iter_mut().for_each(|n| *n += 1);
        }
    }
    let overlap = asked.iter().any(|n| *n > 1);
    let nothing = asked.iter().all(|n| *n == 0);
    let parts = match part {
        Part::Unsatisfiable => {
            assert!(nothing || overlap, "the field is refused without a reason");
            return;
        }
        Part::Slice { first, last } => vec![(*first, *last)],
        Part::Several(parts) => parts.clone(),
        Part::Whole => panic!("a list that is well-formed"),
    };
    assert!(!nothing);
    let mut sent = vec![false; len];
    for (first, last) in parts {
        let bytes = &mut sent[first as usize..=last as usize];
        assert!(!bytes.contains(&true), "two parts overlap");
        bytes.fill(true);
    }
    let mut gap = 0;
    for (sent, asked) in sent.iter().zip(&asked) {
        assert!(*sent || *asked == 0, "a requested byte is not sent");
        gap = if *sent && *asked == 0 { gap + 1 } else { 0 };
        assert!(gap <= GAP, "a gap is too long");
    }
}

fn in_bounds(part: &Part, len: u64) {
    match part {
        Part::Whole | Part::Unsatisfiable => {}
        Part::Slice { first, last } => assert!(first <= last && *last < len),
        Part::Several(parts) => {
            assert!((2..=MAX_PARTS).contains(&parts.len()));
            assert!(parts.iter().all(|(first, last)| first <= last && *last < len));
        }
    }
}

fn slice(first: usize, last: usize) -> Part {
    Part::Slice { first: first as u64, last: last as u64 }
}

/// Returns the elements of the field, if its unit is bytes and the content is not empty.
fn specs(value: &[u8], len: usize) -> Option<Vec<Spec>> {
    let text: String = value.iter().map(|b| char::from(*b)).collect();
    let ascii = |c: char| c.is_ascii_whitespace();
    let (unit, set) = text.trim_matches(ascii).split_once('=')?;
    if unit.to_ascii_lowercase() != "bytes" || len == 0 {
        return None;
    }
    let elements: Vec<&str> = set.split(',').map(|e| e.trim_matches(ascii)).collect();
    if let [one] = elements[..] {
        return Some(vec![spec(one, len)]);
    }
    let specs: Vec<Spec> =
        elements.into_iter().filter(|e| !e.is_empty()).map(|e| spec(e, len)).collect();
    if specs.is_empty() { None } else { Some(specs) }
}

fn spec(text: &str, len: usize) -> Spec {
    let Some((first, last)) = text.split_once('-') else { return Spec::Malformed };
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(first) || !is_number(last) || (first.is_empty() && last.is_empty()) {
        return Spec::Malformed;
    }
    // All positions beyond the longest content are equivalent.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let end = len as u64 - 1;
    let (first, last) = match (first, last) {
        ("", suffix) => match number(suffix) {
            0 => return Spec::Beyond,
            n => (len as u64 - n.min(len as u64), end),
        },
        (first, "") => (number(first), u64::MAX),
        (first, last) => (number(first), number(last)),
    };
    if first > last {
        return Spec::Malformed;
    }
    if first > end {
        return Spec::Beyond;
    }
    Spec::Bytes(first as usize, last.min(end) as usize)
}
