//! The list of directives of `Cache-Control`: names and arguments, quoted or not.

use http::{HeaderMap, HeaderName};

use super::super::negotiate;

/// Maximum number of seconds: 2^31. A larger one is read as this (RFC 9111 section 1.2.2).
pub(super) const MAX_SECONDS: u64 = 1 << 31;

/// A directive, with its name as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directive<'a> {
    pub(super) name: &'a [u8],
    pub(super) argument: Argument<'a>,
}

/// The argument of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Argument<'a> {
    Absent,
    /// A token, or the text between quotes.
    Text(&'a [u8]),
    /// Anything else behind the name.
    Malformed,
}

impl Argument<'_> {
    /// Returns the seconds of the argument; `None` if it is not a number.
    pub(super) fn seconds(self) -> Option<u64> {
        match self {
            Self::Text(text) => seconds(text),
            Self::Absent | Self::Malformed => None,
        }
    }
}

/// Parses delta-seconds (RFC 9111 section 1.2.2); `None` if it is not a number.
pub(super) fn seconds(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |n: u64, b: &u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Some(text.iter().fold(0, digit).min(MAX_SECONDS))
}

/// Returns the directives of all lines of a field. An element without a name is ignored.
pub(super) fn directives<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Directive<'a>> {
    let lines = headers.get_all(name).iter();
    lines.flat_map(|line| negotiate::split(line.as_bytes(), b',')).filter_map(directive)
}

/// Returns whether a line of the field has an unclosed quote, so that the directives after it cannot be read.
pub(super) fn has_open_quote(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|line| {
        let (mut quoted, mut escaped) = (false, false);
        for &b in line.as_bytes() {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = quoted,
                b'"' => quoted = !quoted,
                _ => {}
            }
        }
        quoted
    })
}

fn directive(element: &[u8]) -> Option<Directive<'_>> {
    let element = trim(element);
    let end = element.iter().position(|&b| !is_token_byte(b)).unwrap_or(element.len());
    let (name, rest) = element.split_at(end);
    if name.is_empty() {
        return None;
    }
    let argument = match rest {
        [] => Argument::Absent,
        [b'=', b'"', text @ .., b'"'] if !text.contains(&b'"') && !text.contains(&b'\\') => {
            Argument::Text(text)
        }
        [b'=', text @ ..] if !text.is_empty() && text.iter().all(|&b| is_token_byte(b)) => {
            Argument::Text(text)
        }
        _ => Argument::Malformed,
    };
    Some(Directive { name, argument })
}

/// tchar of RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// Removes spaces and tabs at both ends.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}
