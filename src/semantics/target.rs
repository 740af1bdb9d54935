//! The one normal form of a request target's path, and the refusal of every path that has two.
//!
//! Routing, access rules, the cache's key and the files on disk must all see the same path, or
//! `/public/..%2fadmin` is allowed by the one and served by the other. So the path is decoded
//! exactly once, here, and whoever decides anything decides it by the result.

use std::borrow::Cow;

use http::Uri;

/// A request's URI as the client sent it, before a router removed the prefix of a nested service.
/// It is in the extensions of the nested service's requests.
///
/// ```
/// use vestibule::OriginalUri;
///
/// fn path_of(request: &http::Request<()>) -> &str {
///     let original = request.extensions().get::<OriginalUri>();
///     original.map_or(request.uri(), |OriginalUri(uri)| uri).path()
/// }
/// # assert_eq!(path_of(&http::Request::new(())), "/");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalUri(pub Uri);

/// Why a path has no normal form. All of them are the client's fault: a 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTarget {
    /// It begins with no slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` without two hexadecimal digits behind it.
    #[error("a malformed percent escape in the path")]
    Escape,
    /// A control character, NUL above all, plain or escaped.
    #[error("a control character in the path")]
    Control,
    /// A segment `.` or `..`, plain or escaped, between slashes or backslashes of any kind.
    #[error("a dot segment in the path")]
    DotSegment,
    /// A plain backslash, which is no URI character and which some read as a slash.
    #[error("a backslash in the path")]
    Backslash,
    /// The bytes are not UTF-8; overlong forms are not.
    #[error("the path is not UTF-8")]
    Utf8,
    /// An escaped slash or backslash where a path names a file.
    #[error("an escaped slash in the path of a file")]
    EscapedSlash,
}

/// Turns the raw path of a request target into its normal form.
///
/// Escapes are decoded once, so that a name has one spelling: `/caf%C3%A9`, `/%63afé` and `/café`
/// are one. Three stay escaped, in capitals: `%2F` and `%5C`, which must never become separators,
/// and `%25`, without which a decoded `%252F` would read like a `%2F`. The form is therefore
/// unambiguous: two raw paths have the same one only if they mean the same.
///
/// Empty segments are kept: `/a//b` is not `/a/b`. To an application both are paths of their own,
/// and if we merged them, our rules would be checked against another path than the one that a
/// server behind us gets to see, since requests are passed on with the path as it came.
///
/// The path of a plain request is returned as it is, after one scan, without an allocation. `*`,
/// the target of a server-wide OPTIONS, is its own normal form.
///
/// # Errors
/// [`BadTarget`] for every path that two readers may understand differently. Dot segments are
/// refused rather than resolved, no matter how often they are escaped or what kind of slash is
/// beside them, and with path parameters too (`/..;x/`): clients resolve theirs before sending.
///
/// ```
/// use vestibule::semantics::target::{BadTarget, normalize};
///
/// assert_eq!(normalize("/a%20b/c%2fd").unwrap(), "/a b/c%2Fd");
/// assert_eq!(normalize("/public/..%2fadmin"), Err(BadTarget::DotSegment));
/// ```
pub fn normalize(path: &str) -> Result<Cow<'_, str>, BadTarget> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return if path == "*" { Ok(Cow::Borrowed(path)) } else { Err(BadTarget::NotAbsolute) };
    }
    let (mut is_encoded, mut has_dots, mut previous) = (false, false, 0);
    for &b in bytes {
        match CLASS[usize::from(b)] {
            Class::Plain => {}
            Class::Dot => has_dots |= previous == b'/',
            Class::Encoded => is_encoded = true,
            Class::Control => return Err(BadTarget::Control),
            Class::Backslash => return Err(BadTarget::Backslash),
        }
        previous = b;
    }
    let normal = if is_encoded { Cow::Owned(decode(bytes)?) } else { Cow::Borrowed(path) };
    if (has_dots || is_encoded) && has_dot_segment(normal.as_bytes()) {
        return Err(BadTarget::DotSegment);
    }
    Ok(normal)
}

/// The path below a root that a normal path names: without the leading slash, all escapes decoded.
///
/// # Errors
/// [`BadTarget::EscapedSlash`]: no file's name has a slash in it, and one with a backslash is
/// more likely an attempt than a name. [`BadTarget::NotAbsolute`] if it begins with no slash.
///
/// ```
/// use vestibule::semantics::target::{file_path, normalize};
///
/// let normal = normalize("/docs/100%25.txt").unwrap();
/// assert_eq!(normal, "/docs/100%25.txt");
/// assert_eq!(file_path(&normal).unwrap(), "docs/100%.txt");
/// ```
pub fn file_path(normal: &str) -> Result<Cow<'_, str>, BadTarget> {
    let path = normal.strip_prefix('/').ok_or(BadTarget::NotAbsolute)?;
    if memchr::memchr(b'%', path.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(path));
    }
    // In a normal path a `%` begins one of these three and nothing else.
    if path.contains("%2F") || path.contains("%5C") {
        return Err(BadTarget::EscapedSlash);
    }
    Ok(Cow::Owned(path.replace("%25", "%")))
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Dot,
    /// An escape, or not ASCII: worth the slower way.
    Encoded,
    Control,
    Backslash,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Plain; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            0..=0x1f | 0x7f => Class::Control,
            b'%' | 0x80.. => Class::Encoded,
            b'\\' => Class::Backslash,
            b'.' => Class::Dot,
            _ => Class::Plain,
        };
        b += 1;
    }
    table
};

/// Decodes once what may be decoded. The plain bytes were checked by the caller's scan.
fn decode(path: &[u8]) -> Result<String, BadTarget> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).ok_or(BadTarget::Escape)?;
        match hex(digits[0])? << 4 | hex(digits[1])? {
            0..=0x1f | 0x7f => return Err(BadTarget::Control),
            b'/' => out.extend_from_slice(b"%2F"),
            b'\\' => out.extend_from_slice(b"%5C"),
            b'%' => out.extend_from_slice(b"%25"),
            b => out.push(b),
        }
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    let text = String::from_utf8(out).map_err(|_| BadTarget::Utf8)?;
    // U+0080 to U+009F are control characters too; a terminal that shows a log obeys them.
    if text.chars().any(char::is_control) { Err(BadTarget::Control) } else { Ok(text) }
}

fn hex(digit: u8) -> Result<u8, BadTarget> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(BadTarget::Escape),
    }
}

/// Would anybody, decoding as often as they like, find a segment `.` or `..` in this?
fn has_dot_segment(normal: &[u8]) -> bool {
    let mut at = 0;
    // How many dots the segment consists of so far; `None` once it has anything else.
    let mut dots = Some(0);
    while at < normal.len() {
        let (first, len) = first_char(&normal[at..]);
        match (first, dots) {
            // What follows a `;` are parameters, which some servers cut off before they look.
            (b'/' | b'\\' | b';', Some(1 | 2)) => return true,
            (b'/' | b'\\', _) => dots = Some(0),
            (b'.', Some(n)) => dots = Some(n + 1),
            _ => dots = None,
        }
        at += len;
    }
    matches!(dots, Some(1 | 2))
}

/// The first character of `text`, looking through any number of escapes, and its length there.
fn first_char(text: &[u8]) -> (u8, usize) {
    if text[0] != b'%' {
        return (text[0], 1);
    }
    // `%2e`, `%252e`, `%25252e`, ...
    let mut digits = &text[1..];
    while let Some(rest) = digits.strip_prefix(b"25") {
        digits = rest;
    }
    let len = text.len() - digits.len() + 2;
    match digits {
        [b'2', b'e' | b'E', ..] => (b'.', len),
        [b'2', b'f' | b'F', ..] => (b'/', len),
        [b'5', b'c' | b'C', ..] => (b'\\', len),
        [b'3', b'b' | b'B', ..] => (b';', len),
        _ => (b'%', 1),
    }
}

#[cfg(test)]
mod tests;
