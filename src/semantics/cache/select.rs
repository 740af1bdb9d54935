//! Selects the part of a stored response that answers a request: the whole, a range, or a status that the request's
//! conditions determine.

use http::{HeaderMap, HeaderName, Method, StatusCode, header};

use super::control::CDN_CACHE_CONTROL;
use crate::semantics::{
    conditional::{self, Outcome, Validators},
    date::HttpDate,
    etag::ETag,
    range::{self, Part},
};

/// Fields of a stored response that a 304 omits: they describe the content, which the client already has (RFC 9110
/// section 15.4.5).
const CONTENT_FIELDS: [HeaderName; 5] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
];

/// The fields of a stored response that a 206 leaves out: they hold for the whole content of a message (RFC 9530
/// section 2).
const MESSAGE_FIELDS: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
];

/// The fields of a stored response that a 416 leaves out besides: validators and a lifetime are those of the content.
/// With them, a cache that does not distinguish requests by their range could store the 416 under the same URI.
const LIFETIME_FIELDS: [HeaderName; 6] = [
    header::AGE,
    header::CACHE_CONTROL,
    CDN_CACHE_CONTROL,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
];

/// The part of a stored response to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// The whole response, with its status.
    Whole,
    /// A 304.
    NotModified,
    /// Part of the content: a 206, or a 416.
    Part(Part),
}

/// Returns whether a request has conditions that only the origin can evaluate, `If-Match` and `If-Unmodified-Since`
/// (RFC 9111 section 4.3.2), so that it must be forwarded.
pub fn needs_origin(request: &HeaderMap) -> bool {
    conditional::is_conditional(request)
        && (request.contains_key(header::IF_MATCH)
            || request.contains_key(header::IF_UNMODIFIED_SINCE))
}

/// Evaluates the conditions and the range of a GET or HEAD request for a stored response with content of `len` bytes,
/// if that is known.
///
/// Conditions and ranges apply to a 200 only. `now` replaces the `Date` of a response without one.
pub fn select(
    method: &Method,
    request: &HeaderMap,
    status: StatusCode,
    stored: &HeaderMap,
    len: Option<u64>,
    now: HttpDate,
) -> Selected {
    let has_range = request.contains_key(header::RANGE);
    if status != StatusCode::OK || !(has_range || conditional::is_conditional(request)) {
        return Selected::Whole;
    }
    let validators = validators(stored);
    // Without `Last-Modified`, `Date` is used instead (RFC 9111 section 4.3.2).
    let modified = validators.last_modified.or_else(|| date(stored, &header::DATE));
    let current = Validators { last_modified: modified, ..validators };
    match conditional::evaluate(method, request, Some(current)) {
        Outcome::NotModified => return Selected::NotModified,
        // Only the origin evaluates `If-Match`: see `needs_origin`.
        Outcome::Proceed | Outcome::PreconditionFailed => {}
    }
    let Some(len) = len.filter(|_| has_range) else { return Selected::Whole };
    // The content may have changed again in the second of its `Last-Modified`, after this response was generated (RFC 9110
    // section 8.8.2.2).
    let generated = date(stored, &header::DATE).unwrap_or(now);
    if !conditional::if_range(request, validators, generated) {
        return Selected::Whole;
    }
    match range::requested(method, request, len) {
        Part::Whole => Selected::Whole,
        part => Selected::Part(part),
    }
}

/// Removes the fields that a 304 does not have.
pub fn retain_not_modified_fields(headers: &mut HeaderMap) {
    for name in &CONTENT_FIELDS {
        headers.remove(name);
    }
}

/// Removes the fields that a 206 does not have, before `Content-Range` is added.
pub fn retain_part_fields(headers: &mut HeaderMap) {
    for name in &MESSAGE_FIELDS {
        headers.remove(name);
    }
}

/// Removes the fields that a 416 does not have, before `Content-Range` is added.
pub fn retain_unsatisfiable_fields(headers: &mut HeaderMap) {
    for name in CONTENT_FIELDS.iter().chain(&MESSAGE_FIELDS).chain(&LIFETIME_FIELDS) {
        headers.remove(name);
    }
}

fn validators(stored: &HeaderMap) -> Validators<'_> {
    Validators {
        etag: stored.get(header::ETAG).and_then(|value| ETag::parse(value.as_bytes()).ok()),
        last_modified: date(stored, &header::LAST_MODIFIED),
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<HttpDate> {
    headers.get(name).and_then(|value| HttpDate::parse(value.as_bytes()))
}
