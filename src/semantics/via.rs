//! `Via`: which gateways a message came through (RFC 9110 section 7.6.3).

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Version, header::VIA};

use super::forwarded::is_token;

/// The name by which a gateway adds itself to `Via`. Cheap to clone.
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

/// A name that cannot stand in `Via`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot stand in Via: expected a word or host:port")]
pub struct InvalidName(String);

impl Via {
    /// A pseudonym, or `host` or `host:port` by which this gateway is known.
    ///
    /// # Errors
    /// A name that is empty or has other characters than such names have.
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

    /// Adds this gateway to the fields of a message that it received by this version.
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
    fn via_names_the_received_version() {
        let via = Via::new("example.com:80").unwrap();
        let mut headers = HeaderMap::new();
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            via.append(&mut headers, version);
        }
        let all: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(all, ["1.0 example.com:80", "1.1 example.com:80", "2 example.com:80"]);
    }

    #[test]
    fn name_that_is_no_word_is_refused() {
        for name in ["", "a b", "a,b", "a(b)", "a\r\nb", "\u{e9}"] {
            assert!(Via::new(name).is_err(), "{name}");
        }
        assert!(Via::new("[::1]:80").is_ok() && Via::new("front-1").is_ok());
    }
}
