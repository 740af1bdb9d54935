//! Requests to switch to another protocol (RFC 9110 section 7.8).

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{CONNECTION, UPGRADE},
    request::Parts,
};

/// Returns the protocol that a request asks to switch to, for example `websocket`.
///
/// `None` unless it is a GET of HTTP/1.1 whose `Connection` has `upgrade` and whose only `Upgrade` field names one protocol.
/// `h2c` is ignored: requests after a switch to it would bypass the rules of a proxy (removed by RFC 9113 section 3.1).
pub fn requested(parts: &Parts) -> Option<&HeaderValue> {
    requested_by(&parts.method, parts.version, &parts.headers)
}

/// As [`requested`], for the separate parts of a head.
pub fn requested_by<'a>(
    method: &Method,
    version: Version,
    headers: &'a HeaderMap,
) -> Option<&'a HeaderValue> {
    if *method != Method::GET || version != Version::HTTP_11 {
        return None;
    }
    protocol(headers)
}

/// Returns the protocol that a message's fields switch to.
pub fn protocol(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut fields = headers.get_all(UPGRADE).iter();
    let upgrade = fields.next().filter(|_| fields.next().is_none())?;
    let name = upgrade.as_bytes();
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"-_./+".contains(b);
    let is_one = !name.is_empty() && name.iter().all(is_token);
    if !is_one || name.eq_ignore_ascii_case(b"h2c") {
        return None;
    }
    let mut options =
        headers.get_all(CONNECTION).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade")).then_some(upgrade)
}

/// Sets the fields of a request or response that switches to `protocol`. They are hop-by-hop fields: a gateway removes them,
/// and sets them again if it forwards the switch.
pub fn set(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Returns whether this protocol is WebSocket (RFC 6455).
pub fn is_websocket(protocol: &HeaderValue) -> bool {
    protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn upgrade_needs_a_get_of_http1_and_both_fields() {
        type Fields = [(&'static str, &'static str)];
        let cases: [(&str, Version, &Fields, bool); 10] = [
            ("GET", Version::HTTP_11, &[("connection", "Upgrade"), ("upgrade", "websocket")], true),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "keep-alive, UPGRADE"), ("upgrade", "WebSocket")],
                true,
            ),
            (
                "GET",
                Version::HTTP_10,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                false,
            ),
            (
                "POST",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                false,
            ),
            ("GET", Version::HTTP_11, &[("upgrade", "websocket")], false),
            ("GET", Version::HTTP_11, &[("connection", "upgrade")], false),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
                false,
            ),
            ("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")], false),
            (
                "GET",
                Version::HTTP_11,
                &[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")],
                false,
            ),
            ("GET", Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "")], false),
        ];
        for (method, version, fields, expected) in cases {
            let mut request = Request::builder().method(method).version(version);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(requested(&parts).is_some(), expected, "{fields:?}");
        }
    }
}
