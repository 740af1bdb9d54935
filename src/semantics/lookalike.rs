//! Field names that applications cannot tell from others.
//!
//! CGI and WSGI turn field names into variables in which `-` and `_` are the same, and PHP also turns `.` into `_`.
//! So a client that sends `X_Forwarded_For` overwrites, or adds to, the `X-Forwarded-For` that a gateway has set.

use http::{HeaderMap, HeaderName};

/// Fields that frame a message, or that a gateway sets or removes. `x-forwarded` stands for all names with this
/// prefix.
const PROTECTED: [&str; 6] = [
    "content-length",
    "transfer-encoding",
    "true-client-ip",
    "x-client-ip",
    "x-forwarded",
    "x-real-ip",
];

/// Returns whether a name differs from `Content-Length`, `Transfer-Encoding`, `X-Forwarded-*`, `X-Real-IP`,
/// `X-Client-IP` or `True-Client-IP` only by `_` or `.` in place of `-`.
///
/// ```
/// use http::HeaderName;
/// use vestibule::semantics::lookalike::is_lookalike;
///
/// assert!(is_lookalike(&HeaderName::from_static("x_forwarded-for")));
/// assert!(!is_lookalike(&HeaderName::from_static("x-forwarded-for")));
/// assert!(!is_lookalike(&HeaderName::from_static("x_request_id")));
/// ```
pub fn is_lookalike(name: &HeaderName) -> bool {
    is_lookalike_name(name.as_str().as_bytes())
}

/// The same as [`is_lookalike`], for the bytes of a name in lower case.
pub(super) fn is_lookalike_name(name: &[u8]) -> bool {
    // A fast path: most names begin with another letter.
    matches!(name.first(), Some(b'c' | b't' | b'x'))
        && PROTECTED.iter().any(|protected| is_lookalike_of(name, protected.as_bytes()))
}

/// Removes all fields with such a name, and returns whether there were any. It allocates only if there are.
///
/// [`gateway::prepare_request`](super::gateway::prepare_request) calls it, and so do the workers of
/// [`worker`](crate::worker) before they pass a request to the application. The HTTP/1.1 parser refuses requests
/// with lookalikes of `Content-Length` and `Transfer-Encoding`
/// ([`Fault::AmbiguousName`](crate::proto::h1::Fault::AmbiguousName)).
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use vestibule::semantics::lookalike;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("x_real_ip", HeaderValue::from_static("6.6.6.6"));
/// headers.insert("x-real-ip", HeaderValue::from_static("192.0.2.1"));
/// assert!(lookalike::strip(&mut headers));
/// assert_eq!(headers.len(), 1);
/// ```
pub fn strip(headers: &mut HeaderMap) -> bool {
    let names: Vec<HeaderName> =
        headers.keys().filter(|name| is_lookalike(name)).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
    !names.is_empty()
}

/// Removes a field, and all fields whose names differ from its name only by `-`, `_` and `.`.
///
/// ```
/// use http::{HeaderMap, HeaderName, HeaderValue};
/// use vestibule::semantics::lookalike;
///
/// let mut headers = HeaderMap::new();
/// for name in ["x-user", "X_User", "x-users"] {
///     headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("root"));
/// }
/// lookalike::remove(&mut headers, &HeaderName::from_static("x-user"));
/// assert_eq!(headers.len(), 1);
/// ```
pub fn remove(headers: &mut HeaderMap, name: &HeaderName) {
    let fold = |b: &u8| if matches!(b, b'_' | b'.') { b'-' } else { *b };
    let is_same = |other: &&HeaderName| {
        let (name, other) = (name.as_str().as_bytes(), other.as_str().as_bytes());
        name.len() == other.len() && name.iter().map(fold).eq(other.iter().map(fold))
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_same).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

/// Removes the fields whose names have `_` or `.` in place of a `-` of this name, but not a field of this name.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for the layer that edits fields"))]
pub(crate) fn strip_of(headers: &mut HeaderMap, name: &HeaderName) {
    let known = name.as_str().as_bytes();
    let is_other = |other: &&HeaderName| {
        let other = other.as_str().as_bytes();
        let is_same = |(&o, &k): (&u8, &u8)| o == k || k == b'-' && matches!(o, b'_' | b'.');
        other.len() == known.len() && other != known && other.iter().zip(known).all(is_same)
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_other).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
}

fn is_lookalike_of(name: &[u8], protected: &[u8]) -> bool {
    let is_prefix = protected == b"x-forwarded";
    if name.len() < protected.len() || (name.len() > protected.len() && !is_prefix) {
        return false;
    }
    let is_same = |(&n, &p): (&u8, &u8)| n == p || p == b'-' && matches!(n, b'_' | b'.');
    name.iter().zip(protected).all(is_same) && name.iter().any(|b| matches!(b, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn lookalike_differs_from_its_name_by_separators() {
        for (name, expected) in [
            ("content_length", true),
            ("content.length", true),
            ("transfer_encoding", true),
            ("x_forwarded_for", true),
            ("x-forwarded_for", true),
            ("x.forwarded-proto", true),
            ("x-forwarded-any_thing", true),
            ("x_real-ip", true),
            ("x_client_ip", true),
            ("true_client.ip", true),
            ("content-length", false),
            ("x-forwarded-for", false),
            ("x_forward", false),
            ("x_real_ip_", false),
            ("content_lengths", false),
            ("content_type", false),
            ("via", false),
            ("forwarded", false),
        ] {
            assert_eq!(is_lookalike(&HeaderName::from_static(name)), expected, "{name}");
        }
    }

    #[test]
    fn strip_keeps_all_other_fields() {
        let mut headers = HeaderMap::new();
        for name in ["accept", "x_forwarded_for", "x-forwarded-for", "x_y", "content_length"] {
            headers.append(name, HeaderValue::from_static("1"));
            headers.append(name, HeaderValue::from_static("2"));
        }
        assert!(strip(&mut headers));
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!((names, headers.len()), (vec!["accept", "x-forwarded-for", "x_y"], 6));
        assert!(!strip(&mut headers));
    }
}
