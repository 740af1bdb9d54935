//! Conditional requests (RFC 9110 section 13): whether to proceed, or to answer 304 or 412.

use http::{HeaderMap, HeaderName, Method, header};

use super::{
    date::HttpDate,
    etag::{self, ETag},
};

/// The validators of a representation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validators<'a> {
    /// Its entity tag, if it has one.
    pub etag: Option<ETag<'a>>,
    /// Its time of last modification, if that is known.
    pub last_modified: Option<HttpDate>,
}

/// The result of evaluating a request's preconditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Perform the request.
    Proceed,
    /// Answer 304 with the fields of a 200 that a cache needs (RFC 9110 section 15.4.5).
    NotModified,
    /// Answer 412 without performing the request.
    PreconditionFailed,
}

/// Returns whether a request has preconditions. Most have none, and then the validators need not be
/// computed.
pub fn is_conditional(headers: &HeaderMap) -> bool {
    // One pass over the names costs less than five lookups.
    headers.keys().any(|name| name.as_str().starts_with("if-"))
}

/// Evaluates a request's preconditions against the current representation.
///
/// `current` is `None` if there is no representation (the condition of `If-None-Match: *`). Call it only
/// if the response without preconditions would be a 2xx (RFC 9110 section 13.2.1). The numbered steps
/// are those of section 13.2.2; its step 5 is [`if_range`].
///
/// ```
/// use http::{HeaderMap, Method, header};
/// use vestibule::semantics::{conditional::{Outcome, Validators, evaluate}, etag::ETag};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(header::IF_NONE_MATCH, r#""v1""#.parse().unwrap());
/// let now = Validators { etag: ETag::strong(b"v1").ok(), last_modified: None };
/// assert_eq!(evaluate(&Method::GET, &headers, Some(now)), Outcome::NotModified);
/// assert_eq!(evaluate(&Method::PUT, &headers, Some(now)), Outcome::PreconditionFailed);
/// ```
pub fn evaluate(method: &Method, headers: &HeaderMap, current: Option<Validators<'_>>) -> Outcome {
    if !is_conditional(headers) {
        return Outcome::Proceed;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let modified = current.and_then(|c| c.last_modified);

    // 1. If-Match: false is 412.
    if headers.contains_key(header::IF_MATCH) {
        if !listed(headers, &header::IF_MATCH, current, |a, b| a.strong_eq(b)) {
            return Outcome::PreconditionFailed;
        }
    // 2. else If-Unmodified-Since: false is 412. Ignored if either date is missing or invalid.
    } else if let Some(since) = date(headers, &header::IF_UNMODIFIED_SINCE)
        && modified.is_some_and(|m| m > since)
    {
        return Outcome::PreconditionFailed;
    }
    // 3. If-None-Match: false is 304 for GET and HEAD, 412 for other methods.
    if headers.contains_key(header::IF_NONE_MATCH) {
        if listed(headers, &header::IF_NONE_MATCH, current, |a, b| a.weak_eq(b)) {
            return if reads { Outcome::NotModified } else { Outcome::PreconditionFailed };
        }
    // 4. else, for GET and HEAD, If-Modified-Since: false is 304.
    } else if reads
        && let Some(since) = date(headers, &header::IF_MODIFIED_SINCE)
        && modified.is_some_and(|m| m <= since)
    {
        return Outcome::NotModified;
    }
    // 5. is `if_range`; 6. otherwise.
    Outcome::Proceed
}

/// Returns whether the `Range` field applies: there is no `If-Range`, or it matches the current
/// representation (RFC 9110 section 13.1.5).
///
/// Only strong validators match, so that a client never combines parts of two versions. A date is strong
/// if it is at least one second before `now`: the file could have changed again within the same second
/// (section 8.8.2.2).
pub fn if_range(headers: &HeaderMap, current: Validators<'_>, now: HttpDate) -> bool {
    let mut fields = headers.get_all(header::IF_RANGE).iter();
    let value = match (fields.next(), fields.next()) {
        (None, _) => return true,
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return false,
    };
    if let Ok(tag) = ETag::parse(value) {
        return current.etag.is_some_and(|c| c.strong_eq(tag));
    }
    match (HttpDate::parse(value), current.last_modified) {
        (Some(date), Some(modified)) => date == modified && modified < now,
        _ => false,
    }
}

/// Whether the list contains the tag of the current representation, or is `*` and there is one.
fn listed(
    headers: &HeaderMap,
    name: &HeaderName,
    current: Option<Validators<'_>>,
    eq: impl Fn(ETag<'_>, ETag<'_>) -> bool,
) -> bool {
    let Some(current) = current else { return false };
    headers.get_all(name).iter().any(|value| {
        etag::is_any(value.as_bytes())
            || current.etag.is_some_and(|c| etag::list(value.as_bytes()).any(|tag| eq(c, tag)))
    })
}

/// The date in a field; `None` (ignored) if it is absent, repeated or invalid.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<HttpDate> {
    let mut fields = headers.get_all(name).iter();
    match (fields.next(), fields.next()) {
        (Some(value), None) => HttpDate::parse(value.as_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
