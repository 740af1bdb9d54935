//! `Cache-Status` (RFC 9211): how a cache handled a request.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The name of the field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The usual length of all parameters.
const PARAMETERS: usize = 64;

/// The reason why a request was forwarded (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache was configured not to handle the request.
    Bypass,
    /// The method cannot be answered from a cache.
    Method,
    /// Nothing is stored for the URI.
    UriMiss,
    /// No stored variant matches.
    VaryMiss,
    /// The stored response is fresh, but the request does not accept it.
    Request,
    /// The stored response is stale.
    Stale,
}

impl Forwarded {
    /// All reasons, in the order of their declaration.
    #[cfg_attr(not(feature = "cache"), expect(dead_code, reason = "for caches"))]
    pub(crate) const ALL: [Self; 6] =
        [Self::Bypass, Self::Method, Self::UriMiss, Self::VaryMiss, Self::Request, Self::Stale];

    const fn token(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Request => "request",
            Self::Stale => "stale",
        }
    }
}

/// The handling of a request by a cache.
///
/// ```
/// use vestibule::semantics::cache::status::{CacheStatus, Forwarded};
///
/// let hit = CacheStatus { ttl: Some(30), ..CacheStatus::HIT };
/// assert_eq!(hit.to_text("front"), "front; hit; ttl=30");
/// let miss = CacheStatus { stored: true, ..CacheStatus::forwarded(Forwarded::UriMiss) };
/// assert_eq!(miss.to_text("my cache"), r#""my cache"; fwd=uri-miss; stored"#);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatus {
    /// The reason why the request was forwarded; `None` for a hit.
    pub forwarded: Option<Forwarded>,
    /// The status of the origin, if it differs from that of the response.
    pub forwarded_status: Option<u16>,
    /// The remaining freshness in seconds; negative if the response is stale.
    pub ttl: Option<i64>,
    /// Whether the response was stored.
    pub stored: bool,
    /// Whether the request was answered by the fetch of another request.
    pub collapsed: bool,
}

impl CacheStatus {
    /// A hit.
    pub const HIT: Self = Self {
        forwarded: None,
        forwarded_status: None,
        ttl: None,
        stored: false,
        collapsed: false,
    };

    /// Creates the status of a request that was forwarded.
    pub const fn forwarded(why: Forwarded) -> Self {
        Self { forwarded: Some(why), ..Self::HIT }
    }

    /// Returns the member of the field for a cache with this name.
    pub fn to_text(&self, name: &str) -> String {
        let is_token = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
            && name.bytes().all(|b| super::directives::is_token_byte(b) || b":/".contains(&b));
        let mut text = String::with_capacity(name.len() + PARAMETERS);
        if is_token {
            text.push_str(name);
        } else {
            text.push('"');
            for c in name.chars().filter(|c| (' '..='~').contains(c)) {
                if matches!(c, '"' | '\\') {
                    text.push('\\');
                }
                text.push(c);
            }
            text.push('"');
        }
        text.push_str(if self.forwarded.is_none() { "; hit" } else { "" });
        if let Some(why) = self.forwarded {
            text.push_str("; fwd=");
            text.push_str(why.token());
        }
        if let Some(status) = self.forwarded_status {
            text.push_str("; fwd-status=");
            text.push_str(itoa::Buffer::new().format(status));
        }
        if let Some(ttl) = self.ttl {
            text.push_str("; ttl=");
            text.push_str(itoa::Buffer::new().format(ttl));
        }
        text.push_str(if self.stored { "; stored" } else { "" });
        text.push_str(if self.collapsed { "; collapsed" } else { "" });
        text
    }

    /// Returns the member as a value of the field; `None` if it is none.
    pub(crate) fn to_value(self, name: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_text(name)).ok()
    }

    /// Appends the member to the field of a response, after those of caches closer to the origin.
    pub fn append(&self, name: &str, headers: &mut HeaderMap) {
        if let Some(value) = self.to_value(name) {
            headers.append(CACHE_STATUS, value);
        }
    }
}
