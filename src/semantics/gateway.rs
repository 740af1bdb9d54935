//! What a gateway changes in a head on its way through (RFC 9110 section 7.6).

use std::net::IpAddr;

use bytes::BytesMut;
use http::{
    HeaderMap, HeaderValue,
    header::{EXPECT, HOST},
    uri::Scheme,
};

use super::{forwarded::Forward, hop};

/// Makes a client's request one of ours to a server: without the fields of the client's hop,
/// without `Expect`, which is answered here, and with a `Host` whatever the client's version.
///
/// `name` is the `Host` of a request that has none, as HTTP/1.0 allows. What the server is told of
/// the client goes to `lines`: see [`Forward::write`], also for `ip` and `scheme`.
///
/// ```
/// use bytes::BytesMut;
/// use http::{HeaderMap, HeaderValue, uri::Scheme};
/// use vestibule::semantics::{forwarded::Forward, gateway};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("host", HeaderValue::from_static("example.com"));
/// headers.insert("connection", HeaderValue::from_static("upgrade"));
/// headers.insert("upgrade", HeaderValue::from_static("h2c"));
/// headers.insert("expect", HeaderValue::from_static("100-continue"));
/// let mut lines = BytesMut::new();
/// let name = || HeaderValue::from_static("localhost");
/// gateway::request(&mut headers, Forward::new(), None, &Scheme::HTTP, name, &mut lines);
/// assert_eq!(headers.len(), 1);
/// assert_eq!(lines, "x-forwarded-proto: http\r\nx-forwarded-host: example.com\r\n");
/// ```
pub fn request(
    headers: &mut HeaderMap,
    forward: Forward,
    ip: Option<IpAddr>,
    scheme: &Scheme,
    name: impl FnOnce() -> HeaderValue,
    lines: &mut BytesMut,
) {
    hop::strip(headers);
    headers.remove(EXPECT);
    let host = headers.get(HOST).cloned();
    if host.is_none() {
        headers.insert(HOST, name());
    }
    forward.write(headers, ip, scheme, host.as_ref(), lines);
}

/// Makes a server's response one of ours to a client: without the fields of the server's hop.
pub fn response(headers: &mut HeaderMap) {
    hop::strip(headers);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(fields: &[(&'static str, &'static str)]) -> (Vec<String>, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let (ip, name) = (Some([192, 0, 2, 1].into()), || HeaderValue::from_static("behind"));
        let mut lines = BytesMut::new();
        request(&mut headers, Forward::new(), ip, &Scheme::HTTP, name, &mut lines);
        let headers = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()));
        (headers.collect(), String::from_utf8(lines.to_vec()).unwrap())
    }

    const OURS: &str = "x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\n";

    #[test]
    fn s24_an_h2c_upgrade_never_reaches_the_server() {
        for connection in ["Upgrade, HTTP2-Settings", "upgrade", "keep-alive", "x"] {
            let fields = [
                ("host", "a"),
                ("connection", connection),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ];
            let (headers, lines) = through(&fields);
            assert_eq!(headers, ["host: a"], "Connection: {connection}");
            assert_eq!(lines, format!("{OURS}x-forwarded-host: a\r\n"));
        }
        let (headers, _) = through(&[("host", "a"), ("upgrade", "websocket, h2c, foo")]);
        assert_eq!(headers, ["host: a"], "in a list, and without Connection");
    }

    #[test]
    fn s23_connection_names_the_client_s_fields_and_never_ours() {
        let fields = [
            ("host", "a"),
            ("connection", "close, X-Real-IP, X-Forwarded-For, X-Forwarded-Proto, Host"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
        ];
        let (headers, lines) = through(&fields);
        assert_eq!(headers, ["host: a"]);
        assert_eq!(lines, format!("{OURS}x-forwarded-host: a\r\n"));
    }

    #[test]
    fn a_request_without_host_gets_one_that_is_not_passed_off_as_the_client_s() {
        assert_eq!(through(&[]), (vec!["host: behind".to_owned()], OURS.to_owned()));
    }

    #[test]
    fn s17_an_expectation_is_answered_here_and_goes_no_further() {
        let (headers, _) = through(&[("host", "a"), ("expect", "100-continue"), ("x", "y")]);
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert!(!headers.iter().any(|h| h.starts_with("expect")));
    }
}
