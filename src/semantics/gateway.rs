//! What a gateway changes in a head on its way through (RFC 9110 section 7.6).

use std::net::IpAddr;

use http::{
    HeaderMap,
    header::{EXPECT, HOST},
    uri::Scheme,
};

use super::{forwarded::ForwardedFields, hop};

/// Makes a client's request one of ours to a server: without the fields of the client's hop,
/// without `Expect`, which is answered here, and with fields that say who the client is.
///
/// For `ip` and `scheme` see [`ForwardedFields::apply`]. `Host` stays as it is.
///
/// ```
/// use http::{HeaderMap, HeaderValue, uri::Scheme};
/// use vestibule::semantics::{forwarded::ForwardedFields, gateway};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("host", HeaderValue::from_static("example.com"));
/// headers.insert("connection", HeaderValue::from_static("upgrade"));
/// headers.insert("upgrade", HeaderValue::from_static("h2c"));
/// headers.insert("expect", HeaderValue::from_static("100-continue"));
/// gateway::request(&mut headers, &ForwardedFields::new(), None, &Scheme::HTTP);
/// assert_eq!(headers.len(), 3);
/// assert_eq!(headers["host"], "example.com");
/// assert_eq!(headers["x-forwarded-proto"], "http");
/// assert_eq!(headers["x-forwarded-host"], "example.com");
/// ```
pub fn request(
    headers: &mut HeaderMap,
    fields: &ForwardedFields,
    ip: Option<IpAddr>,
    scheme: &Scheme,
) {
    hop::strip(headers);
    headers.remove(EXPECT);
    let host = headers.get(HOST).cloned();
    fields.apply(headers, ip, scheme, host.as_ref());
}

/// Makes a server's response one of ours to a client: without the fields of the server's hop.
pub fn response(headers: &mut HeaderMap) {
    hop::strip(headers);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn through(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let ip = Some([192, 0, 2, 1].into());
        request(&mut headers, &ForwardedFields::new(), ip, &Scheme::HTTP);
        headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
    }

    const OURS: [&str; 2] = ["x-forwarded-for: 192.0.2.1", "x-forwarded-proto: http"];
    const FOR_HOST_A: [&str; 4] = ["host: a", OURS[0], OURS[1], "x-forwarded-host: a"];

    #[test]
    fn s24_h2c_upgrade_never_reaches_the_server() {
        for connection in ["Upgrade, HTTP2-Settings", "upgrade", "keep-alive", "x"] {
            let fields = [
                ("host", "a"),
                ("connection", connection),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ];
            assert_eq!(through(&fields), FOR_HOST_A, "Connection: {connection}");
        }
        let headers = through(&[("host", "a"), ("upgrade", "websocket, h2c, foo")]);
        assert_eq!(headers, FOR_HOST_A, "in a list, and without Connection");
    }

    #[test]
    fn s23_connection_names_the_client_s_fields_and_never_ours() {
        let fields = [
            ("host", "a"),
            ("connection", "close, X-Real-IP, X-Forwarded-For, X-Forwarded-Proto, Host"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
        ];
        assert_eq!(through(&fields), FOR_HOST_A);
    }

    #[test]
    fn request_without_host_has_no_forwarded_host() {
        assert_eq!(through(&[]), OURS);
    }

    #[test]
    fn s17_expectation_is_answered_here_and_not_forwarded() {
        let headers = through(&[("host", "a"), ("expect", "100-continue"), ("x", "y")]);
        assert_eq!(headers[..2], ["host: a", "x: y"]);
        assert!(!headers.iter().any(|h| h.starts_with("expect")));
    }
}
