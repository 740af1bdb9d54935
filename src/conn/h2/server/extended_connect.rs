//! WebSockets by extended CONNECT (RFC 8441), converted to the form of HTTP/1.1 for the service.

use std::hash::{BuildHasher, RandomState};

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    request, response,
};

/// Takes the protocol of an extended CONNECT from a head.
pub(super) fn take_protocol(parts: &mut request::Parts) -> Option<Protocol> {
    parts.extensions.remove()
}

/// Converts a valid head of an extended CONNECT to a request for an upgrade. A key is added, which HTTP/1.1 servers
/// require; their response to it is removed again. Returns `false` for a protocol other than `websocket`.
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

/// Removes the handshake fields of HTTP/1.1 from a response of 101, which becomes 200 (RFC 8441 section 5).
pub(super) fn convert_response(parts: &mut response::Parts) {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        parts.headers.remove(name);
    }
}

/// Returns a key: 16 bytes in Base64 (RFC 6455 section 4.1). It protects from caches of HTTP/1.1, and is not a
/// secret.
fn random_key() -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let number = || u128::from(RandomState::new().hash_one(0));
    let bits = number() << 64 | number();
    let mut key = [b'='; 24];
    for (i, out) in key[..22].iter_mut().enumerate() {
        // Six bits each from the top; the last digit has two, and four zeros.
        let shifted = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 };
        *out = ALPHABET[(shifted & 63) as usize];
    }
    HeaderValue::from_bytes(&key).expect("Base64 is a valid value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_has_sixteen_random_bytes_in_base64() {
        let (a, b) = (random_key(), random_key());
        assert_ne!(a, b);
        let text = a.to_str().unwrap();
        assert_eq!(text.len(), 24);
        assert!(text.ends_with("==") && "AQgw".contains(&text[21..22]), "{text}");
    }
}
