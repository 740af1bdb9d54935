//! WebSockets by extended CONNECT (RFC 8441), converted to the form of HTTP/1.1 for the service.

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    request, response,
};

use crate::conn::websocket::random_key;

/// Takes the protocol of an extended CONNECT from a head.
pub(super) fn take_protocol(parts: &mut request::Parts) -> Option<Protocol> {
    parts.extensions.remove()
}

/// Converts a valid head of an extended CONNECT to a request for an upgrade. A key is added, which HTTP/1.1 servers
/// require; a client of this crate verifies their response to it, which is removed again. Returns `false` for a
/// protocol other than `websocket`.
pub(super) fn convert_request(parts: &mut request::Parts, protocol: &Protocol) -> bool {
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return false;
    }
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    parts.headers.insert(SEC_WEBSOCKET_KEY, random_key());
    true
}

/// Removes the handshake fields of HTTP/1.1 from a response of 101, which becomes 200 (RFC 8441 section 5), and the length
/// of a body, which no tunnel has.
pub(super) fn convert_response(parts: &mut response::Parts) {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT, CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    if !parts.status.is_success() {
        parts.status = StatusCode::OK;
    }
}
