//! Invariant: the chosen coding is that of a simple reference reader of Accept-Encoding. The weight of a
//! media type is within its bounds and does not depend on letter case or on the number of fields, and at
//! most one of two types is preferred.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use vestibule::semantics::negotiate::{Accepts, Coding, media_weight, prefers};

const CODINGS: [Coding; 4] = [Coding::Identity, Coding::Zstd, Coding::Brotli, Coding::Gzip];
const TYPES: [&str; 4] = ["text/html", "text/plain", "application/json", "*/*"];

fuzz_target!(|data: &[u8]| {
    encoding(data);
    media(data);
});

fn fields(name: HeaderName, values: &[&[u8]]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(&name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(headers)
}

fn encoding(data: &[u8]) {
    let Some(headers) = fields(header::ACCEPT_ENCODING, &[data]) else { return };
    let accepts = Accepts::of(&headers);
    let weights = CODINGS.map(|coding| weight(data, coding));
    for (a, wa) in CODINGS.into_iter().zip(weights) {
        assert_eq!(accepts.best(&[a]).is_some(), wa > 0, "{a:?} by itself");
        for (b, wb) in CODINGS.into_iter().zip(weights) {
            let want = match (wa, wb) {
                (0, 0) => None,
                _ if wb > wa => Some(b),
                _ => Some(a),
            };
            assert_eq!(accepts.best(&[a, b]), want, "{a:?} or {b:?}");
        }
    }
    let parts: Vec<&[u8]> = data.split(|b| *b == b',').collect();
    let split = fields(header::ACCEPT_ENCODING, &parts).expect("parts of a value are values");
    assert_eq!(Accepts::of(&split), accepts, "over several fields");
}

/// Returns the weight of a coding in thousandths: of the first element that names it, else of the first
/// asterisk.
fn weight(field: &[u8], coding: Coding) -> u32 {
    let (mut named, mut any) = (None, None);
    for element in field.split(|b| *b == b',').take(32) {
        let element: String = element.iter().map(|b| char::from(*b)).collect();
        let mut parts =
            element.split(';').map(|p| p.trim_matches(|c: char| c.is_ascii_whitespace()));
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let q = match (parts.next(), parts.next()) {
            (None, _) => Some(1000),
            (Some(q), None) => thousandths(q),
            _ => None,
        };
        let (Some(q), false) = (q, name.is_empty()) else { continue };
        let is_it = match coding {
            Coding::Identity => name == "identity",
            Coding::Zstd => name == "zstd",
            Coding::Brotli => name == "br",
            Coding::Gzip => name == "gzip" || name == "x-gzip",
        };
        if is_it {
            named.get_or_insert(q);
        } else if name == "*" {
            any.get_or_insert(q);
        }
    }
    let unnamed = if coding == Coding::Identity { 1 } else { 0 };
    named.or(any).unwrap_or(unnamed)
}

fn thousandths(parameter: &str) -> Option<u32> {
    let value = parameter.strip_prefix(['q', 'Q'])?.strip_prefix('=')?;
    let (whole, digits) = match value.split_once('.') {
        Some((whole, digits)) => (whole, digits),
        None => (value, ""),
    };
    let valid = matches!(whole, "0" | "1") && digits.len() <= 3;
    if !valid || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let q = format!("{whole}{digits:0<3}").parse().ok()?;
    (q <= 1000).then_some(q)
}

fn media(data: &[u8]) {
    let Some(headers) = fields(header::ACCEPT, &[data]) else { return };
    let weights = TYPES.map(|t| media_weight(&headers, t));
    assert!(weights.iter().all(|w| *w <= 1000));
    let upper = fields(header::ACCEPT, &[&data.to_ascii_uppercase()]).expect("a valid value");
    assert_eq!(TYPES.map(|t| media_weight(&upper, t)), weights, "in capitals");
    for a in TYPES {
        for b in TYPES {
            let (ab, ba) = (prefers(&headers, a, b), prefers(&headers, b, a));
            assert!(!(ab && ba), "{a} and {b}");
            assert!(!ab || media_weight(&headers, a) >= media_weight(&headers, b));
        }
    }
    // A quoted string may not extend over fields, so values with quotes cannot be split.
    if !data.contains(&b'"') {
        let parts: Vec<&[u8]> = data.split(|b| *b == b',').collect();
        let split = fields(header::ACCEPT, &parts).expect("parts of a value are values");
        assert_eq!(TYPES.map(|t| media_weight(&split, t)), weights, "over several fields");
    }
}
