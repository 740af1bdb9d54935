//! `RequestFields`: which of the fields that matter to a cache a request has.

use http::HeaderMap;

/// The fields of a request that determine how it is handled. One pass over the names costs less than a lookup of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RequestFields(u8);

impl RequestFields {
    /// `Range`.
    pub(super) const RANGE: u8 = 1;
    /// A precondition: a field whose name begins with `If-`.
    pub(super) const CONDITION: u8 = 1 << 1;
    /// A precondition that only the origin can evaluate (RFC 9111 section 4.3.2).
    pub(super) const CONDITION_OF_ORIGIN: u8 = 1 << 2;
    /// `Cache-Control`, or `Pragma`.
    pub(super) const CONTROL: u8 = 1 << 3;
    /// `Authorization`.
    pub(super) const AUTHORIZATION: u8 = 1 << 4;
    /// `Upgrade`.
    pub(super) const UPGRADE: u8 = 1 << 5;
    /// `Accept-Encoding`.
    pub(super) const ACCEPT_ENCODING: u8 = 1 << 6;

    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |fields, name| fields | Self::bits(name.as_str())))
    }

    fn bits(name: &str) -> u8 {
        match name {
            "range" => Self::RANGE,
            "if-match" | "if-unmodified-since" => Self::CONDITION | Self::CONDITION_OF_ORIGIN,
            "cache-control" | "pragma" => Self::CONTROL,
            "authorization" => Self::AUTHORIZATION,
            "upgrade" => Self::UPGRADE,
            "accept-encoding" => Self::ACCEPT_ENCODING,
            name if name.starts_with("if-") => Self::CONDITION,
            _ => 0,
        }
    }

    /// Returns whether the request has a field of one of these kinds.
    pub(super) fn has(self, kinds: u8) -> bool {
        self.0 & kinds != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_fields_are_those_of_the_head() {
        let fields = |names: &[&'static str]| {
            let value = || http::HeaderValue::from_static("x");
            let names = names.iter().map(|name| http::HeaderName::from_static(name));
            RequestFields::of(&names.map(|name| (name, value())).collect())
        };
        for (name, kinds) in [
            ("range", RequestFields::RANGE),
            ("if-match", RequestFields::CONDITION | RequestFields::CONDITION_OF_ORIGIN),
            ("if-unmodified-since", RequestFields::CONDITION | RequestFields::CONDITION_OF_ORIGIN),
            ("if-none-match", RequestFields::CONDITION),
            ("if-modified-since", RequestFields::CONDITION),
            ("if-range", RequestFields::CONDITION),
            ("cache-control", RequestFields::CONTROL),
            ("pragma", RequestFields::CONTROL),
            ("authorization", RequestFields::AUTHORIZATION),
            ("upgrade", RequestFields::UPGRADE),
            ("host", 0),
            ("accept-encoding", RequestFields::ACCEPT_ENCODING),
            ("accept", 0),
        ] {
            assert_eq!(fields(&["cookie", name, "x-y"]), RequestFields(kinds), "{name}");
        }
        let both = fields(&["range", "upgrade"]);
        assert!(both.has(RequestFields::RANGE) && both.has(RequestFields::UPGRADE));
        assert!(!both.has(RequestFields::CONDITION | RequestFields::CONTROL));
    }
}
