//! Compares the parser of heads with a reference that reads line by line and byte by byte, without
//! blocks.

use super::pair::Rng;
use crate::proto::h1::{Fault, Fields, HeadParser, Limits, scan};

/// The offset and length of a name or a value.
type Span = (usize, usize);

/// A head: its end, its start line, and the spans of its names and values.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    len: usize,
    start: Vec<Vec<u8>>,
    fields: Vec<(Span, Span)>,
}

type Outcome<E> = Result<Option<Head>, E>;

/// A malformed head.
#[derive(Debug, PartialEq, Eq)]
struct Refused;

/// Implements RFC 9112 sections 2.2, 3, 4 and 5 without the leniencies that it allows, except for two
/// empty lines before a request.
fn reference(input: &[u8], request: bool) -> Outcome<Refused> {
    let mut at = 0;
    while request && at < 4 && input[at..].starts_with(b"\r\n") {
        at += 2;
    }
    let (mut start, mut fields) = (None, Vec::new());
    while let Some(n) = input[at..].iter().position(|&b| b == b'\n') {
        let Some((b'\r', line)) = input[at..at + n].split_last() else { return Err(Refused) };
        match start {
            None if line.is_empty() => return Err(Refused),
            None => start = Some(line),
            Some(start) if line.is_empty() => {
                let parts = if request { request_line(start) } else { status_line(start) };
                return Ok(Some(Head { len: at + n + 1, start: parts.ok_or(Refused)?, fields }));
            }
            Some(_) => {
                let (name, value) = field(line).ok_or(Refused)?;
                fields.push(((at + name.0, name.1), (at + value.0, value.1)));
            }
        }
        at += n + 1;
    }
    Ok(None)
}

fn is_tchar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn field(line: &[u8]) -> Option<(Span, Span)> {
    let colon = line.iter().position(|&b| b == b':')?;
    let (mut from, mut to) = (colon + 1, line.len());
    let white = |at: usize| line[at] == b' ' || line[at] == b'\t';
    while from < to && white(from) {
        from += 1;
    }
    while to > from && white(to - 1) {
        to -= 1;
    }
    let value = &line[from..to];
    let fine = colon > 0
        && line[..colon].iter().all(|&b| is_tchar(b))
        && value.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    fine.then_some(((0, colon), (from, value.len())))
}

fn request_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let parts: Vec<_> = line.split(|&b| b == b' ').collect();
    let [method, target, version @ (b"HTTP/1.1" | b"HTTP/1.0")] = parts[..] else { return None };
    let fine = !method.is_empty()
        && !target.is_empty()
        && method.iter().all(|&b| is_tchar(b))
        && target.iter().all(|&b| b > 0x20 && b < 0x7f && b != b'#')
        && !target.split(|&b| b == b'?').next()?.contains(&b'\\');
    fine.then(|| vec![method.to_vec(), target.to_vec(), version.to_vec()])
}

fn status_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut parts = line.splitn(3, |&b| b == b' ');
    let (version, code) = (parts.next()?, parts.next()?);
    let reason = parts.next().unwrap_or_default();
    let fine = matches!(version, b"HTTP/1.1" | b"HTTP/1.0")
        && code.len() == 3
        && code.iter().all(u8::is_ascii_digit)
        && code[0] != b'0'
        && reason.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f));
    fine.then(|| vec![version.to_vec(), code.to_vec(), reason.to_vec()])
}

fn spans(input: &[u8], fields: Fields<'_>) -> Vec<(Span, Span)> {
    let span = |s: &[u8]| (s.as_ptr().addr() - input.as_ptr().addr(), s.len());
    fields.map(|(name, value)| (span(name), span(value))).collect()
}

fn ours(parser: &mut HeadParser, input: &[u8], request: bool) -> Outcome<Fault> {
    let version = |v| format!("{v:?}").into_bytes();
    if request {
        let Some(h) = parser.request(input)? else { return Ok(None) };
        let start = vec![h.method.to_vec(), h.target.to_vec(), version(h.version)];
        return Ok(Some(Head { len: h.len, start, fields: spans(input, h.fields()) }));
    }
    let Some(h) = parser.response(input)? else { return Ok(None) };
    let start = vec![version(h.version), h.status.to_string().into_bytes(), h.reason.to_vec()];
    Ok(Some(Head { len: h.len, start, fields: spans(input, h.fields()) }))
}

/// Limits that refuse nothing, because lengths are not compared.
fn parser() -> HeadParser {
    let most = usize::MAX;
    HeadParser::new(Limits { name_bytes: most, method_bytes: most, ..Limits::default() })
}

/// Returns a head whose line ends, colons and names are near the ends of blocks, with some bytes changed.
fn random(rng: &mut Rng, request: bool) -> Vec<u8> {
    const ODD: [&[u8]; 24] = [
        b"\\",
        b"?",
        b"\r",
        b"\n",
        b"\r\n",
        b"\t",
        b" ",
        b":",
        b"\0",
        b"\x1f",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xc3",
        b"a",
        b"\r\r\n",
        b"\n\r",
        b": ",
        b" :",
        b"\r\n ",
        b"\r\n\r\n",
        b"@",
        b"[",
        b"\"",
    ];
    let start: &[u8] = if request { b"GET /p HTTP/1.1\r\n" } else { b"HTTP/1.1 200 OK\r\n" };
    let mut head = b"\r\n".repeat(if rng.one_in(8) { rng.below(4) } else { 0 });
    head.extend_from_slice(start);
    for _ in 0..rng.below(5) {
        let near = [0, 3, 15, 31, 60, 124, 188, 252][rng.below(8)] + rng.below(8);
        let name = if rng.one_in(3) { near.max(1) } else { 1 + rng.below(20) };
        head.extend(std::iter::repeat_n(b'n', name));
        head.extend_from_slice([&b":"[..], b": ", b":\t", b":  "][rng.below(4)]);
        let value = if rng.one_in(2) { near } else { rng.below(20) };
        head.extend(std::iter::repeat_n([b'v', b':', 0x80, b' '][rng.below(4)], value));
        head.extend_from_slice([&b"\r\n"[..], b" \r\n", b"\t\r\n"][rng.below(3)]);
    }
    head.extend_from_slice(b"\r\nbody\r\n\r\n");
    for _ in 0..rng.below(4) {
        let (at, odd) = (rng.below(head.len()), ODD[rng.below(ODD.len())]);
        let to = if rng.one_in(2) { at } else { head.len().min(at + odd.len()) };
        head.splice(at..to, odd.iter().copied());
    }
    head
}

/// Checks that every cut gives the same result, and that it is the reference's.
fn compare(rng: &mut Rng, heads: usize) {
    let (mut read, mut refused) = (0, 0);
    for i in 0..heads {
        let request = i % 2 == 0;
        let input = random(rng, request);
        let whole = ours(&mut parser(), &input, request);
        match &whole {
            Ok(Some(_)) => read += 1,
            Ok(None) => {}
            Err(_) => refused += 1,
        }
        let shown = input.escape_ascii();
        let expected = reference(&input, request);
        assert_eq!(whole.as_ref().map_err(|_| &Refused), expected.as_ref(), "{shown}");
        for cut in 1..input.len() {
            let mut parser = parser();
            let mut got = ours(&mut parser, &input[..cut], request);
            if got == Ok(None) {
                got = ours(&mut parser, &input, request);
            }
            assert_eq!(got, whole, "cut at {cut}: {shown}");
        }
        let mut parser = parser();
        let mut each = (0..=input.len()).map(|n| ours(&mut parser, &input[..n], request));
        let got = each.find(|o| *o != Ok(None)).unwrap_or(Ok(None));
        assert_eq!(got, whole, "byte by byte: {shown}");
    }
    assert!(read > heads / 8 && refused > heads / 8, "{read} read and {refused} refused");
}

fn heads() -> usize {
    if cfg!(miri) { 8 } else { 600 }
}

#[test]
fn heads_agree_with_line_by_line_reader() {
    compare(&mut Rng(0x9e37_79b9), heads());
}

#[test]
fn heads_agree_with_line_by_line_reader_without_simd() {
    scan::portable(|| compare(&mut Rng(0x85eb_ca6b), heads()));
}
