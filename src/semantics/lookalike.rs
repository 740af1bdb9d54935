//! Names that programs behind us take for those of other fields.
//!
//! CGI and WSGI make variables of field names, in which `-` and `_` are the same, and PHP takes `.` for
//! `_` too. So `X_Forwarded_For` is to them what a gateway wrote into `X-Forwarded-For`, or is added to
//! it, and comes from the client.

use http::{HeaderMap, HeaderName};

/// Fields that frame a message, or that a gateway writes and drops. `x-forwarded` stands for all names
/// that begin with it.
const GUARDED: [&str; 6] = [
    "content-length",
    "transfer-encoding",
    "true-client-ip",
    "x-client-ip",
    "x-forwarded",
    "x-real-ip",
];

/// Whether a name is that of `Content-Length`, `Transfer-Encoding`, `X-Forwarded-*`, `X-Real-IP`,
/// `X-Client-IP` or `True-Client-IP`, but for `_` or `.` in place of `-`.
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
    is_alike_any(name.as_str().as_bytes())
}

/// The same for the text of a name.
pub(super) fn is_alike_any(name: &[u8]) -> bool {
    // Most names begin with another letter.
    matches!(name.first(), Some(b'c' | b't' | b'x'))
        && GUARDED.iter().any(|known| is_alike(name, known.as_bytes()))
}

/// Removes all fields with such a name, and says whether there were any. Nothing is allocated if there
/// are none.
///
/// [`gateway::prepare_request`](super::gateway::prepare_request) and the workers of [`worker`](crate::worker) do so, the
/// last before an application. A server of HTTP/1.1 refuses those of `Content-Length` and
/// `Transfer-Encoding` altogether ([`Fault::AmbiguousName`](crate::proto::h1::Fault::AmbiguousName)).
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

fn is_alike(name: &[u8], known: &[u8]) -> bool {
    let is_prefix = known == b"x-forwarded";
    if name.len() < known.len() || (name.len() > known.len() && !is_prefix) {
        return false;
    }
    let is_same = |(&n, &k): (&u8, &u8)| n == k || k == b'-' && matches!(n, b'_' | b'.');
    name.iter().zip(known).all(is_same) && name.iter().any(|b| matches!(b, b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn lookalikes_are_names_with_other_separators() {
        for (name, is) in [
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
            assert_eq!(is_lookalike(&HeaderName::from_static(name)), is, "{name}");
        }
    }

    #[test]
    fn strip_leaves_all_other_fields() {
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
