//! Field names: common ones are looked up in a table, in any case, without an allocation.

use http::HeaderName;

/// The meaning of a field name for the message or connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownField {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    ContentType,
    /// A name that CGI-like programs read as `Content-Length` or `Transfer-Encoding`.
    Ambiguous,
    /// Any other name, without meaning for the connection.
    Other,
}

/// Returns the name in lower case, and its meaning. `None` if it is not a token or too long for
/// [`http`].
#[inline(always)]
pub(super) fn parse(token: &[u8]) -> Option<(HeaderName, KnownField)> {
    match find(token) {
        Some(i) => {
            Some((NAMES[i].clone(), KNOWN_FIELDS.get(i).copied().unwrap_or(KnownField::Other)))
        }
        None => {
            let known = if is_ambiguous(token) { KnownField::Ambiguous } else { KnownField::Other };
            Some((HeaderName::from_bytes(token).ok()?, known))
        }
    }
}

/// Returns whether this is the name of a framing field with `_` or `.` instead of `-`. CGI and WSGI map
/// `-` and `_` to one variable, PHP also `.`.
pub(in crate::proto) fn is_ambiguous(token: &[u8]) -> bool {
    let is_alike = |(&n, k): (&u8, u8)| n | 0x20 == k || k == b'-' && matches!(n, b'_' | b'.');
    ["content-length", "transfer-encoding"]
        .iter()
        .any(|known| token.len() == known.len() && token.iter().zip(known.bytes()).all(is_alike))
}

macro_rules! names {
    ($($name:literal,)*) => {
        /// Names in lower case; the first ones are those of [`KNOWN_FIELDS`].
        const TEXT: [&str; [$($name),*].len()] = [$($name),*];
        static NAMES: [HeaderName; TEXT.len()] = [$(HeaderName::from_static($name)),*];
    };
}

/// The meanings of the first names below.
const KNOWN_FIELDS: [KnownField; 6] = [
    KnownField::Host,
    KnownField::ContentLength,
    KnownField::TransferEncoding,
    KnownField::Connection,
    KnownField::Expect,
    KnownField::ContentType,
];

// Names that browsers, proxies and applications send in practice; any other one is allocated.
#[rustfmt::skip]
names! {
    "host", "content-length", "transfer-encoding", "connection", "expect", "content-type",
    "accept", "accept-charset", "accept-encoding", "accept-language", "accept-ranges",
    "access-control-allow-credentials", "access-control-allow-headers",
    "access-control-allow-methods", "access-control-allow-origin",
    "access-control-expose-headers", "access-control-max-age", "access-control-request-headers",
    "access-control-request-method", "age", "allow", "alt-svc", "authorization", "baggage",
    "cache-control", "cache-status", "cdn-cache-control", "content-disposition",
    "content-encoding", "content-language", "content-location", "content-range",
    "content-security-policy", "content-security-policy-report-only", "cookie",
    "cross-origin-embedder-policy", "cross-origin-opener-policy", "cross-origin-resource-policy",
    "date", "dnt", "early-data", "etag", "expires", "forwarded", "from", "http2-settings",
    "idempotency-key", "if-match", "if-modified-since", "if-none-match", "if-range",
    "if-unmodified-since", "keep-alive", "last-modified", "link", "location", "max-forwards",
    "nel", "origin", "permissions-policy", "pragma", "priority", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "range", "referer", "referrer-policy", "refresh",
    "report-to", "retry-after", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform",
    "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user", "sec-gpc",
    "sec-purpose", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-key",
    "sec-websocket-protocol", "sec-websocket-version", "server", "server-timing", "set-cookie",
    "strict-transport-security", "te", "timing-allow-origin", "traceparent", "tracestate",
    "trailer", "upgrade", "upgrade-insecure-requests", "user-agent", "vary", "via", "warning",
    "www-authenticate", "x-api-key", "x-content-type-options", "x-csrf-token", "x-csrftoken",
    "x-dns-prefetch-control", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
    "x-forwarded-proto", "x-frame-options", "x-powered-by", "x-real-ip", "x-request-id",
    "x-requested-with", "x-xss-protection",
}

/// Slots of the table: more than four for each name, so that a lookup reads one or two.
const SLOTS: usize = 512;
const EMPTY: u8 = u8::MAX;

/// A hash table with linear probing; an entry is an index of [`TEXT`], or [`EMPTY`].
static TABLE: [u8; SLOTS] = {
    assert!(TEXT.len() < EMPTY as usize);
    let mut table = [EMPTY; SLOTS];
    let mut i = 0;
    while i < TEXT.len() {
        let mut slot = first_slot(TEXT[i].as_bytes());
        while table[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = i as u8;
        i += 1;
    }
    table
};

/// Returns the first slot of a name: a hash of its length and three of its bytes that ignores the case
/// of letters. The name must not be empty.
const fn first_slot(name: &[u8]) -> usize {
    let len = name.len();
    let near_end = len.saturating_sub(4);
    let [a, b, c] = [name[0] | 0x20, name[len / 2] | 0x20, name[near_end] | 0x20];
    (len * 37 + a as usize * 11 + b as usize * 29 + c as usize * 5) % SLOTS
}

fn find(token: &[u8]) -> Option<usize> {
    if token.is_empty() {
        return None;
    }
    let mut slot = first_slot(token);
    loop {
        let i = TABLE[slot];
        if i == EMPTY {
            return None;
        }
        if is_same(token, TEXT[usize::from(i)].as_bytes()) {
            return Some(usize::from(i));
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// Returns whether the token is this name, which is in lower case. Setting the lower-case bit turns no
/// other byte of a token into a letter, a digit or a hyphen.
fn is_same(token: &[u8], lower: &[u8]) -> bool {
    const LOWER: u64 = u64::from_ne_bytes([0x20; 8]);
    if token.len() != lower.len() {
        return false;
    }
    let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
    let (Some(last), Some(last_lower)) = (token.last_chunk(), lower.last_chunk()) else {
        return token.iter().zip(lower).all(|(a, b)| a | 0x20 == *b);
    };
    // The last eight bytes may overlap the words below.
    let ((words, _), (lower, _)) = (token.as_chunks(), lower.as_chunks());
    word(last) | LOWER == word(last_lower)
        && words.iter().zip(lower).all(|(a, b)| word(a) | LOWER == word(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_name_is_found_in_any_case() {
        for text in TEXT {
            let title: String = text
                .char_indices()
                .map(|(i, c)| if i % 3 == 0 { c.to_ascii_uppercase() } else { c })
                .collect();
            for spelt in [text, &text.to_ascii_uppercase(), &title] {
                let (name, known) = parse(spelt.as_bytes()).unwrap();
                assert_eq!(name, HeaderName::from_bytes(text.as_bytes()).unwrap());
                assert_eq!(known != KnownField::Other, TEXT[..KNOWN_FIELDS.len()].contains(&text));
            }
        }
    }

    /// A token with one changed byte becomes the same name as in `http`, known or not.
    #[test]
    fn name_that_differs_in_one_byte_is_another() {
        let names = if cfg!(miri) { 10 } else { TEXT.len() }; // Miri is slow
        for text in &TEXT[..names] {
            for at in 0..text.len() {
                for byte in (0x21..0x7f).filter(|b| super::super::scan::token_len(&[*b]) == 1) {
                    let mut token = text.as_bytes().to_vec();
                    token[at] = byte;
                    let (name, _) = parse(&token).unwrap();
                    assert_eq!(name, HeaderName::from_bytes(&token).unwrap());
                }
            }
        }
    }

    #[test]
    fn known_fields_are_those_of_their_names() {
        for (name, known) in [
            ("Host", KnownField::Host),
            ("content-LENGTH", KnownField::ContentLength),
            ("Transfer-Encoding", KnownField::TransferEncoding),
            ("connection", KnownField::Connection),
            ("Expect", KnownField::Expect),
            ("Content-Type", KnownField::ContentType),
            ("Content_Length", KnownField::Ambiguous),
            ("transfer.encoding", KnownField::Ambiguous),
            ("content~length", KnownField::Other),
            ("hos", KnownField::Other),
            ("Content-Lengt", KnownField::Other),
        ] {
            assert_eq!(parse(name.as_bytes()).unwrap().1, known);
        }
    }

    #[test]
    fn name_search_takes_few_steps() {
        let probe_len =
            |from: usize| (0..).take_while(|i| TABLE[(from + i) % SLOTS] != EMPTY).count();
        assert!((0..SLOTS).map(probe_len).max() <= Some(6));
        assert!(parse(b"").is_none());
    }
}
