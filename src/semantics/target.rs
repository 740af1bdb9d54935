//! The normal form of a request target's path. Ambiguous paths are refused.
//!
//! Routing, access rules, cache keys and file lookups must all see the same path, or one allows
//! `/public/..%2fadmin` and another one serves it. So the path is decoded exactly once, here, and all
//! decisions use the result.

mod pattern;

use std::borrow::Cow;

use http::Uri;

pub use pattern::{InvalidPattern, PathPattern};

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

/// Marks a request whose path was rewritten, in its extensions: its [`OriginalUri`] does not begin with the prefix of a nested
/// service.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the layer that rewrites"))]
pub(crate) struct RewrittenPath;

/// The reason why a path has no normal form. Every one is the client's fault: a 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadTarget {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// A `%` that is not followed by two hexadecimal digits.
    #[error("a malformed percent escape in the path")]
    Escape,
    /// A control character, for example NUL, plain or escaped.
    #[error("a control character in the path")]
    Control,
    /// A segment `.` or `..`, plain or escaped, between slashes or backslashes of any kind.
    #[error("a dot segment in the path")]
    DotSegment,
    /// A plain backslash, which is not a URI character and which some programs read as a slash.
    #[error("a backslash in the path")]
    Backslash,
    /// The bytes are not UTF-8. Overlong forms are not UTF-8.
    #[error("the path is not UTF-8")]
    Utf8,
    /// An escaped slash or backslash in the path of a file.
    #[error("an escaped slash in the path of a file")]
    EscapedSlash,
}

/// Returns the normal form of the raw path of a request target.
///
/// Escapes are decoded once, so that a name has one spelling: `/caf%C3%A9`, `/%63afé` and `/café`
/// are one. Three stay escaped, in capitals: `%2F` and `%5C`, which must never become separators,
/// and `%25`, without which a decoded `%252F` would be the same as `%2F`. The form is therefore
/// unambiguous: two raw paths have the same form only if they mean the same.
///
/// Empty segments are kept: `/a//b` is not `/a/b`. They are different paths to an application, and
/// requests are forwarded with the raw path: if the segments were merged, access rules would check
/// another path than the upstream server sees.
///
/// A path without escapes and non-ASCII bytes is returned unchanged, after one scan and without an
/// allocation. `*`, the target of a server-wide OPTIONS, is its own normal form.
///
/// # Errors
/// [`BadTarget`] for every ambiguous path. Dot segments are refused rather than resolved, no matter how
/// often they are escaped or what kind of slash is beside them, and with path parameters too
/// (`/..;x/`): clients resolve theirs before sending.
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

/// Returns the path of a file below a root: the normal path without its leading slash, all escapes decoded.
///
/// # Errors
/// [`BadTarget::EscapedSlash`]: no file name contains a slash, and one with a backslash is more likely
/// an attack than a name. [`BadTarget::NotAbsolute`] if it does not begin with a slash.
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
    // In a normal path every `%` begins `%2F`, `%5C` or `%25`.
    if path.contains("%2F") || path.contains("%5C") {
        return Err(BadTarget::EscapedSlash);
    }
    Ok(Cow::Owned(path.replace("%25", "%")))
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Dot,
    /// `%`, or a byte that is not ASCII: the path must be decoded and checked.
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

/// Decodes all escapes once, except those of `/`, `\` and `%`. The caller has checked the plain bytes.
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
    // U+0080 to U+009F are control characters too; a terminal that shows a log interprets them.
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

/// Returns whether repeated decoding of a path, raw or normal, would yield a segment `.` or `..`.
pub(super) fn has_dot_segment(path: &[u8]) -> bool {
    if memchr::memchr(b'%', path).is_none() {
        return is_dot_segment_in(path);
    }
    // No further decoding changes a dot or a separator, so the last result has each segment of the others.
    is_dot_segment_in(&decode_repeatedly(path))
}

/// Returns whether a path has a segment `.` or `..` between slashes or backslashes.
fn is_dot_segment_in(path: &[u8]) -> bool {
    path.split(|b| matches!(b, b'/' | b'\\')).any(|segment| {
        // Some servers remove path parameters, which begin with `;`, before they resolve segments.
        let name = segment.split(|&b| b == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    })
}

/// Returns a path in which no escape of an ASCII character is left. A decoded character may be part of the next
/// escape: `%252e` is `.` in the end, and so is `%%32e`, for a reader that leaves the first `%` as it is.
fn decode_repeatedly(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &b in path {
        out.push(b);
        // Each decoded character shortens the text, so the time is linear.
        while let [.., b'%', high, low] = out[..]
            && let (Ok(high @ 0..8), Ok(low)) = (hex(high), hex(low))
        {
            out.truncate(out.len() - 3);
            out.push(high << 4 | low);
        }
    }
    out
}

#[cfg(test)]
mod tests;
