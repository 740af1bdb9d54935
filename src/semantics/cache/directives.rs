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

/// Calls `f` with each directive of all lines of a field. An element without a name is ignored. Returns whether a line has an
/// unclosed quote, so that the directives after it cannot be read.
pub(super) fn for_each<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    mut f: impl FnMut(Directive<'a>),
) -> bool {
    let mut has_open_quote = false;
    for line in headers.get_all(name) {
        let line = line.as_bytes();
        if memchr::memchr(b'"', line).is_none() {
            line.split(|&b| b == b',').filter_map(directive).for_each(&mut f);
        } else {
            negotiate::split(line, b',').filter_map(directive).for_each(&mut f);
            has_open_quote |= is_quote_open(line);
        }
    }
    has_open_quote
}

fn is_quote_open(line: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for &b in line {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
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
    TOKEN[usize::from(b)]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0_u8;
    while b < 128 {
        table[b as usize] = b.is_ascii_alphanumeric();
        b += 1;
    }
    let (others, mut i) = (b"!#$%&'*+-.^_`|~", 0);
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

/// Removes spaces and tabs at both ends.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = text.iter().position(|b| !is_space(b)).unwrap_or(text.len());
    let end = text.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    &text[start..end]
}
