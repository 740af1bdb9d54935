//! `Sec-WebSocket-Key` and `Sec-WebSocket-Accept` of the WebSocket handshake over HTTP/1.1 (RFC 6455 section 4).

use std::hash::{BuildHasher, RandomState};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION},
};
use sha1_smol::Sha1;

use crate::semantics::upgrade;

/// The suffix that a server hashes with the key (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns a new key: 16 bytes in Base64 (section 4.1). It need not be secret: it protects from caches that answer
/// with a stored response.
#[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "clients of HTTP/2 send none"))]
pub(crate) fn random_key() -> HeaderValue {
    let number = || RandomState::new().hash_one(0);
    let bytes = [number().to_be_bytes(), number().to_be_bytes()].concat();
    base64(&bytes)
}

/// Returns the value of `Sec-WebSocket-Accept` for a key (section 4.2.2).
pub(crate) fn accept(key: &HeaderValue) -> HeaderValue {
    let mut hash = Sha1::from(key.as_bytes());
    hash.update(GUID);
    base64(&hash.digest().bytes())
}

/// Returns whether the `Sec-WebSocket-Accept` of a response of 101 is that of the request's key. True for a request
/// without a key, which asks for another protocol, or whose client checks the response itself.
pub(crate) fn has_valid_accept(request: &HeaderMap, response: &HeaderMap) -> bool {
    let Some(key) = request.get(SEC_WEBSOCKET_KEY) else { return true };
    let mut values = response.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    values.next() == Some(&accept(key)) && values.next().is_none()
}

/// The reason why a request is not a valid request for a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not ask for one, or has no valid key: 400.
    Malformed,
    /// It asks for a version other than 13 (section 4.4): 426.
    Version,
}

/// Returns the key of a request for a WebSocket (section 4.2.1).
pub(crate) fn requested_key<B>(request: &Request<B>) -> Result<&HeaderValue, Refusal> {
    let headers = request.headers();
    let protocol = upgrade::requested_by(request.method(), request.version(), headers);
    if !protocol.is_some_and(upgrade::is_websocket) {
        return Err(Refusal::Malformed);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::Version);
    }
    single(headers, &SEC_WEBSOCKET_KEY)
        .filter(|key| is_key(key.as_bytes()))
        .ok_or(Refusal::Malformed)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns whether a key is 16 bytes in Base64: 22 digits, the last of which has four zero bits, and `==`.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, b"==")) = key.split_at_checked(22) else { return false };
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    digits.iter().all(is_digit) && b"AQgw".contains(&digits[21])
}

/// Returns bytes in Base64 (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        let digit = |i: usize| ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
        text.extend((0..4).map(|i| if i <= group.len() { digit(i) } else { b'=' }));
    }
    HeaderValue::from_bytes(&text).expect("Base64 is a valid value")
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

    #[test]
    fn request_needs_version_13_and_a_key_of_16_bytes() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let request = |fields: &[(&'static str, &'static str)]| {
            let mut request = Request::new(());
            upgrade::set(request.headers_mut(), HeaderValue::from_static("websocket"));
            for (name, value) in fields {
                request.headers_mut().append(*name, HeaderValue::from_static(value));
            }
            request
        };
        let (version, name) = ("sec-websocket-version", "sec-websocket-key");
        let valid = request(&[(version, "13"), (name, key)]);
        assert_eq!(requested_key(&valid).unwrap(), key);
        for fields in [&[(name, key)][..], &[(version, "8"), (name, key)], &[(version, "13, 8")]] {
            assert_eq!(requested_key(&request(fields)), Err(Refusal::Version), "{fields:?}");
        }
        for value in
            ["", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25jZ!=="]
        {
            let refused = request(&[(version, "13"), (name, value)]);
            assert_eq!(requested_key(&refused), Err(Refusal::Malformed), "{value}");
        }
        let twice = request(&[(version, "13"), (name, key), (name, key)]);
        assert_eq!(requested_key(&twice), Err(Refusal::Malformed));
        assert_eq!(requested_key(&Request::new(())), Err(Refusal::Malformed));
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in cases {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn accept_is_that_of_rfc_6455_and_any_other_is_invalid() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
        assert!(has_valid_accept(&request, &response), "no key was sent");
        request.insert(SEC_WEBSOCKET_KEY, key.clone());
        assert!(!has_valid_accept(&request, &response));
        response.insert(SEC_WEBSOCKET_ACCEPT, key.clone());
        assert!(!has_valid_accept(&request, &response));
        response.insert(SEC_WEBSOCKET_ACCEPT, accept(&key));
        assert!(has_valid_accept(&request, &response));
        response.append(SEC_WEBSOCKET_ACCEPT, accept(&key));
        assert!(!has_valid_accept(&request, &response), "it is repeated");
    }
}
