//! Validates the head of a request, and converts it to the form that HTTP/1.1 gives (RFC 9113 section 8).

use bytes::{BufMut, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE},
    request::Parts,
    uri::Authority,
};

use crate::proto::h1::{Fault, Host, Limits, is_ambiguous_name, is_target, parse_content_length};

/// The framing of a valid request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValidRequest {
    /// The length of the body, if the client has stated it.
    pub(crate) length: Option<u64>,
    /// Whether the client waits for `100 Continue`.
    pub(crate) expects_continue: bool,
}

/// Validates a head and converts it: the target is in origin-form, `Host` has the authority, and cookies are in
/// one field (sections 8.2.3 and 8.3.1). So services, routes and servers behind see the same as with HTTP/1.1.
///
/// `has_protocol` is an extended CONNECT (RFC 8441).
pub(crate) fn validate_request(
    parts: &mut Parts,
    limits: &Limits,
    has_protocol: bool,
) -> Result<ValidRequest, Fault> {
    let is_connect = parts.method == Method::CONNECT && !has_protocol;
    let begins_tunnel = is_connect || has_protocol;
    if is_connect && !limits.connect {
        return Err(Fault::Connect);
    }
    if parts.method.as_str().len() > limits.method_bytes {
        return Err(Fault::MethodTooLong);
    }
    if parts.headers.len() > limits.fields {
        return Err(Fault::FieldsTooLarge); // each crumb of a cookie counts
    }
    let mut has_special = false;
    for (name, value) in &parts.headers {
        check_field(name, value, limits)?;
        has_special |= [EXPECT, CONTENT_TYPE, CONTENT_LENGTH, COOKIE].contains(name);
    }
    let host = authority(parts)?;
    if begins_tunnel && parts.headers.contains_key(CONTENT_LENGTH) {
        return Err(Fault::ConnectBody);
    }
    if is_connect {
        check_connect(parts)?; // the target stays in authority-form
    } else {
        parts.uri = origin_form(parts)?;
    }
    parts.headers.try_insert(HOST, host).map_err(|_| Fault::FieldsTooLarge)?;
    if !has_special {
        return Ok(ValidRequest { length: None, expects_continue: false });
    }
    join_cookies(&mut parts.headers)?;
    let expects_continue = match single(&parts.headers, &EXPECT)? {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => true,
        Some(_) => return Err(Fault::Expectation),
    };
    single(&parts.headers, &CONTENT_TYPE)?;
    let length = match single(&parts.headers, &CONTENT_LENGTH)? {
        None => None,
        Some(value) => Some(parse_content_length(value.as_bytes()).ok_or(Fault::ContentLength)?),
    };
    Ok(ValidRequest { length, expects_continue })
}

/// Checks what a field must not be in HTTP/2, or could become in HTTP/1.1.
pub(super) fn check_field(
    name: &HeaderName,
    value: &HeaderValue,
    limits: &Limits,
) -> Result<(), Fault> {
    let value = value.as_bytes();
    if is_of_connection(name) {
        return Err(Fault::FieldName);
    }
    if *name == TE && value != b"trailers" {
        return Err(Fault::FieldValue);
    }
    if name.as_str().len() > limits.name_bytes {
        return Err(Fault::FieldsTooLarge);
    }
    if is_ambiguous(name) {
        return Err(Fault::AmbiguousName);
    }
    // Section 8.2.1. `http` allows neither CR, LF nor NUL.
    let is_space = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if is_space(value.first()) || is_space(value.last()) {
        return Err(Fault::FieldValue);
    }
    Ok(())
}

/// Returns whether a field applies to a connection of HTTP/1.1 (section 8.2.2).
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade"
    )
}

/// Returns whether a field could be read as one that frames a message of HTTP/1.1.
pub(super) fn is_ambiguous(name: &HeaderName) -> bool {
    *name != CONTENT_LENGTH && is_ambiguous_name(name.as_str().as_bytes())
}

/// Returns the authority, which `Host` must not contradict (section 8.3.1).
fn authority(parts: &Parts) -> Result<HeaderValue, Fault> {
    let host = single(&parts.headers, &HOST)?;
    let named = match host {
        Some(host) => Some(Host::parse(host.as_bytes()).ok_or(Fault::Host)?),
        None => None,
    };
    let Some(authority) = parts.uri.authority() else {
        return host.cloned().ok_or(Fault::HostMissing);
    };
    // No user information, which can obscure the authority (RFC 9110 section 4.2.4).
    let parsed = Host::parse(authority.as_str().as_bytes()).ok_or(Fault::Target)?;
    let default_port = if parts.uri.scheme_str() == Some("http") { 80 } else { 443 };
    if named.is_some_and(|named| !named.is_same(parsed, default_port)) {
        return Err(Fault::Host);
    }
    HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::Target)
}

/// Checks the target of CONNECT, a host and a port (section 8.5).
fn check_connect(parts: &Parts) -> Result<(), Fault> {
    match parts.uri.authority().and_then(Authority::port_u16) {
        Some(1..) => Ok(()),
        Some(0) | None => Err(Fault::Target),
    }
}

/// Returns the target in origin-form, or `*`.
fn origin_form(parts: &Parts) -> Result<Uri, Fault> {
    // `h2` accepts other schemes, and drops one without an authority.
    if parts.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Fault::Target);
    }
    let Some(path) = parts.uri.path_and_query() else { return Err(Fault::Target) };
    let text = path.as_str();
    let is_origin = text.starts_with('/');
    let is_asterisk = text == "*" && parts.method == Method::OPTIONS;
    if !(is_origin || is_asterisk) || !is_target(text.as_bytes()) {
        return Err(Fault::Target);
    }
    Ok(path.clone().into())
}

/// Returns the only value of a field.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Fault> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Fault::Repeated) } else { Ok(first) }
}

/// Joins the crumbs of a cookie (section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Fault> {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return Ok(()) };
    let mut joined = BytesMut::new();
    for crumb in crumbs {
        if joined.is_empty() {
            joined.put_slice(first.as_bytes());
        }
        joined.put_slice(b"; ");
        joined.put_slice(crumb.as_bytes());
    }
    if !joined.is_empty() {
        let cookie = HeaderValue::from_maybe_shared(joined.freeze());
        headers.insert(COOKIE, cookie.map_err(|_| Fault::FieldValue)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn validate(
        method: &str,
        uri: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Parts, ValidRequest), Fault> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let valid = validate_request(&mut parts, &Limits::default(), false)?;
        Ok((parts, valid))
    }

    #[test]
    fn valid_request_becomes_what_http1_gives() {
        let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("content-length", "7")];
        let (parts, valid) = validate("POST", "https://a.example:8443/p?q", &fields).unwrap();
        assert_eq!(parts.uri, "/p?q");
        assert_eq!(parts.headers[HOST], "a.example:8443");
        assert_eq!(parts.headers[COOKIE], "a=1; b=2");
        assert_eq!(parts.headers.len(), 4);
        assert_eq!(valid, ValidRequest { length: Some(7), expects_continue: false });
        let (parts, _) = validate("OPTIONS", "*", &[("host", "a")]).unwrap();
        assert_eq!(parts.uri, "*");
        let (_, valid) =
            validate("PUT", "/", &[("host", "a"), ("expect", "100-Continue")]).unwrap();
        assert!(valid.expects_continue);
    }

    #[test]
    fn h8_request_that_would_change_in_http1_is_refused() {
        for (method, uri, field, fault) in [
            ("GET", "https://a/", ("host", "b"), Fault::Host),
            ("GET", "https://a:1/", ("host", "a:2"), Fault::Host),
            ("GET", "https://u@a/", ("x", "y"), Fault::Target),
            ("GET", "ftp://a/", ("x", "y"), Fault::Target),
            ("GET", "/", ("x", "y"), Fault::HostMissing),
            ("GET", "/", ("host", "a b"), Fault::Host),
            ("GET", "*", ("host", "a"), Fault::Target),
            ("GET", "/a\\b", ("host", "a"), Fault::Target),
            ("CONNECT", "a:443", ("host", "a"), Fault::Connect),
            ("GET", "https://a/", ("transfer-encoding", "chunked"), Fault::FieldName),
            ("GET", "https://a/", ("connection", "x"), Fault::FieldName),
            ("GET", "https://a/", ("upgrade", "h2c"), Fault::FieldName),
            ("GET", "https://a/", ("te", "gzip"), Fault::FieldValue),
            ("GET", "https://a/", ("content_length", "1"), Fault::AmbiguousName),
            ("GET", "https://a/", ("content-length", "+1"), Fault::ContentLength),
            ("GET", "https://a/", ("x", " y"), Fault::FieldValue),
            ("GET", "https://a/", ("x", "y\t"), Fault::FieldValue),
            ("GET", "https://a/", ("expect", "tea"), Fault::Expectation),
        ] {
            // What `http` refuses cannot come this far.
            if uri.parse::<Uri>().is_ok() {
                let result = validate(method, uri, &[field]).map(drop);
                assert_eq!(result, Err(fault), "{method} {uri} {field:?}");
            }
        }
        let long = "M".repeat(Limits::default().method_bytes + 1);
        assert_eq!(validate(&long[1..], "https://a/", &[]).map(drop), Ok(()));
        assert_eq!(validate(&long, "https://a/", &[]).map(drop), Err(Fault::MethodTooLong));
        let twice = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(validate("GET", "https://a/", &twice).map(drop), Err(Fault::Repeated));
    }

    #[test]
    fn connect_has_a_port_and_no_body() {
        let limits = Limits::new().allow_connect(true);
        let connect = |target: &str, field: (&str, &str)| {
            let request = Request::builder().method("CONNECT").uri(target).header(field.0, field.1);
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            validate_request(&mut parts, &limits, false).map(|valid| (parts, valid))
        };
        let (parts, valid) = connect("a.example:443", ("x", "y")).unwrap();
        assert_eq!(parts.uri, "a.example:443");
        assert_eq!(parts.headers[HOST], "a.example:443");
        assert_eq!(valid.length, None);
        for (target, field, fault) in [
            ("a", ("x", "y"), Fault::Target),
            ("a:0", ("x", "y"), Fault::Target),
            ("u@a:443", ("x", "y"), Fault::Target),
            ("a:443", ("host", "b"), Fault::Host),
            ("a:443", ("content-length", "0"), Fault::ConnectBody),
        ] {
            assert_eq!(connect(target, field).map(drop), Err(fault), "{target}");
        }
    }

    #[test]
    fn extended_connect_has_no_length() {
        for (field, expected) in [("x", Ok(())), ("content-length", Err(Fault::ConnectBody))] {
            let request = Request::builder().method("CONNECT").uri("https://a/chat");
            let (mut parts, ()) = request.header(field, "0").body(()).unwrap().into_parts();
            let valid = validate_request(&mut parts, &Limits::default(), true);
            assert_eq!(valid.map(drop), expected);
        }
    }

    #[test]
    fn h5_each_crumb_of_a_cookie_counts_as_a_field() {
        let crumbs = |n| vec![("cookie", ""); n];
        assert!(validate("GET", "https://a/", &crumbs(100)).is_ok());
        assert_eq!(
            validate("GET", "https://a/", &crumbs(101)).map(drop),
            Err(Fault::FieldsTooLarge)
        );
    }
}
