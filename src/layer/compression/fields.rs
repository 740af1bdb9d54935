//! The header fields of responses that are compressed.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, VARY,
    },
};

use crate::semantics::{
    etag::{self, ETag},
    negotiate::Coding,
};

/// Returns whether a response with this status and these fields may be encoded.
pub(super) fn can_be_encoded(status: StatusCode, headers: &HeaderMap) -> bool {
    let has_content = !status.is_informational()
        && !matches!(
            status,
            StatusCode::NO_CONTENT
                | StatusCode::RESET_CONTENT
                | StatusCode::PARTIAL_CONTENT
                | StatusCode::NOT_MODIFIED
        );
    let no_transform = headers.get_all(CACHE_CONTROL).iter().any(|value| {
        value
            .as_bytes()
            .split(|&b| b == b',')
            .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
    });
    has_content
        && !no_transform
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
}

/// Returns the value of `Content-Length`; `None` if it is absent or malformed.
pub(super) fn announced_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Adds `Accept-Encoding` to `Vary`, unless it is there.
pub(super) fn add_vary(headers: &mut HeaderMap) {
    let is_named = headers.get_all(VARY).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"accept-encoding")
        })
    });
    if !is_named {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// Changes the fields to those of the encoded content.
pub(super) fn mark_as_encoded(headers: &mut HeaderMap, coding: Coding) {
    const OF_THE_CONTENT: [HeaderName; 6] = [
        CONTENT_LENGTH,
        ACCEPT_RANGES,
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("digest"),
    ];
    for name in &OF_THE_CONTENT {
        headers.remove(name);
    }
    if let Some(name) = coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    if let Some(weak) = strong_etag(headers).and_then(weakened) {
        headers.insert(ETAG, weak);
    }
}

/// Changes the fields of a 304 to those that the 200 would have (RFC 9110 section 15.4.5), if the client has the encoded
/// content: `known`, its `If-None-Match`, has the weak form of a strong tag, which comes from [`mark_as_encoded`].
///
/// A `Vary` gets `Accept-Encoding` in any case. It replaces that of a cache's response, which has it.
pub(super) fn mark_not_modified(headers: &mut HeaderMap, known: &[HeaderValue]) {
    if headers.contains_key(VARY) {
        add_vary(headers);
    }
    let Some(etag) = strong_etag(headers) else { return };
    let mut is_encoded = false;
    for tag in known.iter().flat_map(|value| etag::list(value.as_bytes())) {
        if tag.strong_eq(etag) {
            return; // it has the identical content, too
        }
        is_encoded |= tag.weak_eq(etag);
    }
    if let Some(weak) = weakened(etag).filter(|_| is_encoded) {
        headers.insert(ETAG, weak);
        add_vary(headers);
    }
}

fn strong_etag(headers: &HeaderMap) -> Option<ETag<'_>> {
    ETag::parse(headers.get(ETAG)?.as_bytes()).ok().filter(|etag| !etag.is_weak())
}

fn weakened(etag: ETag<'_>) -> Option<HeaderValue> {
    ETag::weak(etag.opaque()).ok().map(ETag::to_value)
}
