//! Gives a forwarded request the spelling of its key.
//!
//! Equivalent spellings of a host and a path have one key (RFC 3986 section 6.2.2), but an origin may answer them
//! differently: with a 404 to a host with a trailing dot, or to `/%61`. The response to the first of them is stored
//! for all, so the origin is always asked in the same way, and no client decides what the others get.

use std::fmt::Write;

use http::{
    HeaderValue, Uri,
    header::HOST,
    request,
    uri::{Authority, Parts, PathAndQuery},
};

use super::key::Key;
use crate::semantics::target::{OriginalUri, normalize};

/// Replaces the host and the paths of a request with this key by their only spelling.
pub(super) fn apply(key: &Key, parts: &mut request::Parts) {
    let (_, host, _) = key.origin();
    if parts.headers.get(HOST).is_some_and(|value| value != host)
        && let Ok(value) = HeaderValue::from_str(host)
    {
        parts.headers.insert(HOST, value);
    }
    respell(&mut parts.uri, host);
    if let Some(OriginalUri(uri)) = parts.extensions.get_mut::<OriginalUri>() {
        respell(uri, host);
    }
}

/// Replaces the authority of a target, if it has one, and its path. The query is part of the key as it is.
fn respell(uri: &mut Uri, host: &str) {
    let authority = match uri.authority() {
        Some(authority) if authority.as_str() != host => Authority::try_from(host).ok(),
        _ => None,
    };
    let path = encode(uri.path());
    if authority.is_none() && path.is_none() {
        return;
    }
    let mut parts: Parts = uri.clone().into_parts();
    if let Some(path) = path {
        let target = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        parts.path_and_query = PathAndQuery::try_from(target).ok().or(parts.path_and_query);
    }
    parts.authority = authority.or(parts.authority);
    if let Ok(respelled) = Uri::from_parts(parts) {
        *uri = respelled;
    }
}

/// Returns the only spelling of a path, if it has another one. Only bytes that a path cannot contain (RFC 3986
/// section 3.3) and those that [`decode_unreserved`] keeps are escaped.
fn encode(path: &str) -> Option<String> {
    if path.bytes().all(is_literal) || normalize(path).is_err() {
        return None;
    }
    let mut encoded = String::with_capacity(path.len());
    for b in decode_unreserved(path).bytes() {
        if is_literal(b) || b == b'%' {
            encoded.push(char::from(b));
        } else {
            let _ = write!(encoded, "%{b:02X}"); // a string accepts all
        }
    }
    Some(encoded).filter(|encoded| encoded != path)
}

/// Returns whether a byte stands for itself in a path: a slash, an unreserved or a reserved character.
fn is_literal(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"/-._~:[]@!$&'()*+,;=".contains(&b)
}

/// Decodes the escapes of a path that has a normal form, except those of `%`, of `\` and of reserved characters. They stay in
/// capitals.
pub(super) fn decode_unreserved(path: &str) -> String {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        let (plain, escaped) = rest.split_at(at);
        decoded.extend_from_slice(plain);
        let Some((escape, after)) = escaped.split_at_checked(3) else { break };
        let digits = str::from_utf8(&escape[1..]).ok();
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(b) if !br"%\:/?#[]@!$&'()*+,;=".contains(&b) => decoded.push(b),
            _ => decoded.extend(escape.iter().map(u8::to_ascii_uppercase)),
        }
        rest = after;
    }
    decoded.extend_from_slice(rest);
    String::from_utf8_lossy(&decoded).into_owned() // its normal form is UTF-8
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn path_is_escaped_where_it_must_be() {
        for (path, want) in [
            ("/a-b._~:[]@!$&'()*+,;=/c", None),
            ("/%25%5C%2F%3F%23%5B%2B", None),
            ("/caf%C3%A9%20", None),
            ("*", None),
            ("/%zz/../{", None),
            ("/%2b%7e%41", Some("/%2B~A")),
            ("/caf\u{e9}", Some("/caf%C3%A9")),
            ("/\"{|}^`%22", Some("/%22%7B%7C%7D%5E%60%22")),
        ] {
            assert_eq!(encode(path).as_deref(), want, "{path}");
            let again = want.and_then(encode);
            assert_eq!(again, None, "{path}");
        }
    }

    #[test]
    fn request_has_the_spelling_of_its_key() {
        for (target, host) in [
            ("/%61/x%2fy?%61=b", "Example.com."),
            ("/a/x%2Fy?%61=b", "example.com:80"),
            ("http://Example.com:80/%61/x%2Fy?%61=b", "example.com"),
            ("http://example.com/a/x%2Fy?%61=b", "other"),
        ] {
            let request = Request::get(target).header(HOST, host);
            let request = request.extension(OriginalUri("/p/%61?%61".parse().unwrap()));
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let key = Key::new("http", "example.com", "/a/x%2fy", Some("%61=b")).unwrap();
            apply(&key, &mut parts);
            assert_eq!(parts.uri.path_and_query().unwrap(), "/a/x%2Fy?%61=b", "{target}");
            let authority = parts.uri.authority().map(Authority::as_str);
            assert_eq!(authority, target.starts_with("http").then_some("example.com"), "{target}");
            assert_eq!(parts.headers[HOST], "example.com", "{target}");
            assert_eq!(parts.extensions.get::<OriginalUri>().unwrap().0, *"/p/a?%61");
        }
    }
}
