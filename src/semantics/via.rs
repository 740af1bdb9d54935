//! `Via`: the gateways that a message has passed (RFC 9110 section 7.6.3).

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Version, header::VIA};

use super::forwarded::is_token;

/// The name of a gateway in `Via`. Cheap to clone.
///
/// ```
/// use http::{HeaderMap, Version};
/// use vestibule::semantics::via::Via;
///
/// let mut headers = HeaderMap::new();
/// headers.insert("via", "1.0 fred".parse().unwrap());
/// Via::new("front")?.append(&mut headers, Version::HTTP_11);
/// let all: Vec<_> = headers.get_all("via").iter().collect();
/// assert_eq!(all, ["1.0 fred", "1.1 front"]);
/// # Ok::<(), vestibule::semantics::via::InvalidName>(())
/// ```
#[derive(Debug, Clone)]
pub struct Via(Arc<[HeaderValue; 3]>);

/// A name that is invalid in `Via`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name in Via: '{0}' is neither a token nor host:port")]
pub struct InvalidName(String);

impl Via {
    /// Creates a value with a pseudonym, or the `host` or `host:port` of this gateway.
    ///
    /// # Errors
    /// The name is empty, or has characters that are not allowed in a token or `host:port`.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let is_valid = |b: u8| is_token(b) || matches!(b, b':' | b'[' | b']');
        let value = |version: &str| HeaderValue::try_from([version, " ", name].concat());
        if name.is_empty() || !name.bytes().all(is_valid) {
            return Err(InvalidName(name.to_owned()));
        }
        match (value("1.0"), value("1.1"), value("2")) {
            (Ok(http10), Ok(http11), Ok(http2)) => Ok(Self(Arc::new([http10, http11, http2]))),
            _ => Err(InvalidName(name.to_owned())),
        }
    }

    /// Appends this gateway to the fields of a message that it received with this version of HTTP.
    pub fn append(&self, headers: &mut HeaderMap, received: Version) {
        let [http10, http11, http2] = &*self.0;
        let value = match received {
            Version::HTTP_09 | Version::HTTP_10 => http10,
            Version::HTTP_2 => http2,
            _ => http11,
        };
        headers.append(VIA, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_names_the_received_version() {
        let via = Via::new("example.com:80").unwrap();
        let mut headers = HeaderMap::new();
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            via.append(&mut headers, version);
        }
        let all: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(all, ["1.0 example.com:80", "1.1 example.com:80", "2 example.com:80"]);
    }

    #[test]
    fn new_refuses_names_that_are_not_tokens() {
        for name in ["", "a b", "a,b", "a(b)", "a\r\nb", "\u{e9}"] {
            assert!(Via::new(name).is_err(), "{name}");
        }
        assert!(Via::new("[::1]:80").is_ok() && Via::new("front-1").is_ok());
    }
}
