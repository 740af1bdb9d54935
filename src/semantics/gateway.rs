//! Changes that a gateway makes to the heads that it forwards (RFC 9110 section 7.6).

use http::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, COOKIE, EXPECT, HOST, MAX_FORWARDS, PROXY_AUTHORIZATION},
};

use super::{forwarded::ForwardedFields, hop};
use crate::peer::Peer;

/// Prepares the head of a client's request for the upstream server: removes the hop-by-hop fields and
/// `Expect`, which the gateway answers itself, and adds fields that name the client.
///
/// See [`ForwardedFields::apply`] for the added fields. `Host` is not changed.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use vestibule::{peer::Peer, semantics::{forwarded::ForwardedFields, gateway}};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("host", HeaderValue::from_static("example.com"));
/// headers.insert("connection", HeaderValue::from_static("upgrade"));
/// headers.insert("upgrade", HeaderValue::from_static("h2c"));
/// headers.insert("expect", HeaderValue::from_static("100-continue"));
/// gateway::prepare_request(&mut headers, &ForwardedFields::new(), &Peer::unix());
/// assert_eq!(headers.len(), 3);
/// assert_eq!(headers["host"], "example.com");
/// assert_eq!(headers["x-forwarded-proto"], "http");
/// assert_eq!(headers["x-forwarded-host"], "example.com");
/// ```
pub fn prepare_request(headers: &mut HeaderMap, fields: &ForwardedFields, peer: &Peer) {
    hop::strip(headers);
    headers.remove(EXPECT);
    let host = headers.get(HOST).cloned();
    fields.apply_to(headers, peer, host);
}

/// Applies `Max-Forwards` to OPTIONS and TRACE (RFC 9110 section 7.6.2), and decides whether TRACE is
/// forwarded. Returns the status of the gateway's own response. On `None` the request must be forwarded; its `Max-Forwards`
/// has been decremented.
///
/// | request | status |
/// |---|---|
/// | OPTIONS with `Max-Forwards: 0` | 200: the gateway is the final recipient |
/// | TRACE, unless `forwards_trace` | 501 |
/// | TRACE with `Max-Forwards: 0` | 501: a gateway does not echo requests |
/// | either with a `Max-Forwards` that is not a number, or repeated | 400 |
///
/// A server echoes a TRACE request with the fields that the gateway has added. The status is 501 rather
/// than 405, since a gateway supports it for no resource and does not know which methods `Allow` would
/// have to list. `Authorization`, `Cookie` and `Proxy-Authorization` are removed from a forwarded TRACE
/// (section 9.3.8).
///
/// ```
/// use http::{HeaderMap, Method};
/// use vestibule::semantics::gateway;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("max-forwards", 1.into());
/// assert_eq!(gateway::answer(&Method::OPTIONS, &mut headers, false), None);
/// assert_eq!(headers["max-forwards"], "0");
/// let status = gateway::answer(&Method::OPTIONS, &mut headers, false).unwrap();
/// assert_eq!(status, 200);
/// ```
pub fn answer(
    method: &Method,
    headers: &mut HeaderMap,
    forwards_trace: bool,
) -> Option<StatusCode> {
    let is_trace = *method == Method::TRACE;
    if is_trace && !forwards_trace {
        return Some(StatusCode::NOT_IMPLEMENTED);
    }
    if !is_trace && *method != Method::OPTIONS {
        return None;
    }
    if is_trace {
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
            headers.remove(name);
        }
    }
    match max_forwards(headers) {
        Err(Malformed) => Some(StatusCode::BAD_REQUEST),
        Ok(None) => None,
        Ok(Some(0)) if is_trace => Some(StatusCode::NOT_IMPLEMENTED),
        Ok(Some(0)) => Some(StatusCode::OK),
        Ok(Some(n)) => {
            headers.insert(MAX_FORWARDS, (n - 1).into());
            None
        }
    }
}

/// An error: the field is repeated or not a number.
struct Malformed;

/// Returns the value of `Max-Forwards`. It saturates at `u64::MAX`, as RFC 9110 section 7.6.2 allows.
fn max_forwards(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lines = headers.get_all(MAX_FORWARDS).iter();
    let Some(value) = lines.next() else { return Ok(None) };
    let digits = value.as_bytes();
    if lines.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let digit = |n: u64, b: &u8| n.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Ok(Some(digits.iter().fold(0, digit)))
}

/// Prepares the head of a server's response for the client: removes the hop-by-hop fields.
pub fn prepare_response(headers: &mut HeaderMap) {
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
        let peer = Peer::tcp(([192, 0, 2, 1], 1).into(), ([192, 0, 2, 9], 80).into());
        prepare_request(&mut headers, &ForwardedFields::new(), &peer);
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
    fn s23_connection_removes_fields_of_the_client_and_not_of_the_gateway() {
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

    #[test]
    fn max_forwards_is_decremented_for_options_and_trace() {
        let max = u64::MAX.to_string();
        let less = (u64::MAX - 1).to_string();
        let cases = [
            ("0", Some(200), "0"),
            ("000", Some(200), "000"),
            ("1", None, "0"),
            ("10", None, "9"),
            (&max, None, &less),
            ("99999999999999999999999999", None, &less),
            ("", Some(400), ""),
            ("-1", Some(400), "-1"),
            ("+1", Some(400), "+1"),
            ("1, 1", Some(400), "1, 1"),
            ("x", Some(400), "x"),
        ];
        for (value, options, left) in cases {
            for (method, want) in [
                (Method::OPTIONS, options),
                (Method::TRACE, options.map(|s| if s == 200 { 501 } else { s })),
            ] {
                let mut headers = HeaderMap::new();
                headers.insert(MAX_FORWARDS, value.parse().unwrap());
                let status = answer(&method, &mut headers, true).map(|s| s.as_u16());
                assert_eq!(status, want, "{method} {value}");
                assert_eq!(headers[MAX_FORWARDS], left, "{method} {value}");
            }
            let mut headers = HeaderMap::new();
            headers.insert(MAX_FORWARDS, value.parse().unwrap());
            assert_eq!(answer(&Method::GET, &mut headers, true), None, "ignored for other methods");
            assert_eq!(headers[MAX_FORWARDS], value);
        }
        let mut twice = HeaderMap::new();
        twice.append(MAX_FORWARDS, 1.into());
        twice.append(MAX_FORWARDS, 1.into());
        assert_eq!(answer(&Method::OPTIONS, &mut twice, true), Some(StatusCode::BAD_REQUEST));
        assert_eq!(answer(&Method::OPTIONS, &mut HeaderMap::new(), true), None);
    }

    #[test]
    fn trace_is_refused_or_loses_its_credentials() {
        let mut headers = HeaderMap::new();
        for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST] {
            headers.append(name, HeaderValue::from_static("secret"));
        }
        let refused = answer(&Method::TRACE, &mut headers, false);
        assert_eq!(refused, Some(StatusCode::NOT_IMPLEMENTED));
        assert_eq!(answer(&Method::TRACE, &mut headers, true), None);
        assert_eq!((headers.len(), headers.contains_key(HOST)), (1, true));
    }
}
