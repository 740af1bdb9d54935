//! Errors for gRPC clients: responses of trailers only.

use std::fmt::Write as _;

use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::LocalReply;
use crate::body::Body;

const GRPC: &[u8] = b"application/grpc";

/// Returns whether a request is a gRPC request: a POST, the only method of gRPC, of the type `application/grpc`, with or
/// without a message format, such as `application/grpc+proto`. gRPC-Web has another type.
///
/// After a CONNECT, the 200 of gRPC would begin a tunnel.
pub(super) fn is_grpc(method: &Method, headers: &HeaderMap) -> bool {
    if method != Method::POST {
        return false;
    }
    let Some(value) = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) else { return false };
    let Some((media_type, rest)) = value.split_at_checked(GRPC.len()) else { return false };
    media_type.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Returns the gRPC code for a status, by gRPC's table of HTTP statuses. A more specific code replaces UNKNOWN.
fn code(status: StatusCode) -> u16 {
    const UNKNOWN: u16 = 2;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match status.as_u16() {
        400 | 405 | 415 | 417 | 500 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 501 => UNIMPLEMENTED,
        408 => DEADLINE_EXCEEDED,
        413 | 414 | 431 => RESOURCE_EXHAUSTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Returns the response for a status: 200 without a body, whose head has the code as `grpc-status`, and the status,
/// its reason phrase and the detail as `grpc-message`.
pub(super) fn response(status: StatusCode, detail: Option<&str>) -> Response<Body> {
    let mut message = status.as_str().to_owned();
    for (separator, part) in [(" ", status.canonical_reason()), (": ", detail)] {
        if let Some(part) = part {
            message.push_str(separator);
            message.push_str(part);
        }
    }
    let message = HeaderValue::from_str(&encode(&message));
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(LocalReply);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // Any client can ask for this format. A cache must not store the error as the 200 of a page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("grpc-status", code(status).into());
    headers.insert("grpc-message", message.expect("only visible ASCII and spaces are left"));
    response
}

/// Percent-encodes all bytes except spaces and visible ASCII characters other than `%`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes all"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_of_grpc_is_known_by_its_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("Application/gRPC", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grp", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(content_type))];
            let headers = HeaderMap::from_iter(headers);
            assert_eq!(is_grpc(&Method::POST, &headers), expected, "{content_type}");
            for method in [Method::GET, Method::HEAD, Method::CONNECT] {
                assert!(!is_grpc(&method, &headers), "{method} {content_type}");
            }
        }
        assert!(!is_grpc(&Method::POST, &HeaderMap::new()));
    }

    #[test]
    fn response_to_grpc_has_code_and_message_in_its_head() {
        let refused = response(StatusCode::PAYLOAD_TOO_LARGE, Some("100 % \u{fc}\n"));
        assert_eq!((refused.status(), refused.body().len()), (StatusCode::OK, Some(0)));
        assert_eq!(refused.headers()[CONTENT_TYPE], "application/grpc");
        assert_eq!(refused.headers()["grpc-status"], "8");
        assert_eq!(refused.headers()[CACHE_CONTROL], "no-store");
        let message = "413 Payload Too Large: 100 %25 %C3%BC%0A";
        assert_eq!(refused.headers()["grpc-message"], message);
        for (status, code) in [(401, 16), (403, 7), (404, 12), (408, 4), (429, 14), (500, 13)] {
            assert_eq!(super::code(StatusCode::from_u16(status).unwrap()), code, "{status}");
        }
        for status in 502..=504 {
            assert_eq!(code(StatusCode::from_u16(status).unwrap()), 14, "{status}");
        }
        let unknown = response(StatusCode::from_u16(599).unwrap(), None);
        assert_eq!(unknown.headers()["grpc-status"], "2");
        assert_eq!(unknown.headers()["grpc-message"], "599");
    }
}
