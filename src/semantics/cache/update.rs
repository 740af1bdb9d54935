//! Validation of a stored response, and its update by a 304 or by the response to HEAD.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{control::ResponseControl, storable::has_validator};
use crate::semantics::{conditional, etag::ETag, hop};

/// Fields that an update does not change: they describe the stored content, or are its validator.
const CONTENT_FIELDS: [HeaderName; 7] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    header::CONTENT_RANGE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    header::ETAG,
];

/// Conditions of a request that a cache evaluates itself for stored responses.
const CONDITIONS: [HeaderName; 5] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
];

/// Removes the client's conditions and range, so that the request fetches a whole response for the store.
pub fn remove_conditions(request: &mut HeaderMap) {
    if conditional::is_conditional(request) {
        for name in &CONDITIONS {
            request.remove(name);
        }
    }
    request.remove(header::RANGE);
}

/// Adds the conditions that validate a stored response (RFC 9111 section 4.3.1). Returns whether it has a
/// validator.
pub fn add_conditions(request: &mut HeaderMap, stored: &HeaderMap) -> bool {
    remove_conditions(request);
    if !has_validator(stored) {
        return false;
    }
    if let Some(etag) = stored.get(header::ETAG)
        && ETag::parse(etag.as_bytes()).is_ok()
    {
        request.insert(header::IF_NONE_MATCH, etag.clone());
    }
    if let Some(modified) = stored.get(header::LAST_MODIFIED) {
        request.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
    true
}

/// Updates the stored fields by those of a 304 (RFC 9111 section 3.2).
///
/// The 304 is the response to a request with the validator of this stored response, so this response is updated even
/// if the 304 has another entity tag, which is ignored. `new` must not contain fields that [are not
/// stored](super::storable::retain_stored_fields).
pub fn update(stored: &mut HeaderMap, new: &HeaderMap) {
    for name in new.keys().filter(|name| !CONTENT_FIELDS.contains(name)) {
        stored.remove(name);
        for value in new.get_all(name) {
            stored.append(name.clone(), value.clone());
        }
    }
}

/// Adds the fields of a 304 that are for the client of this request alone and therefore not stored: `Set-Cookie`, and those
/// that `private` or `no-cache` lists. Fields that `response` has are kept.
pub fn add_unstored_fields(
    response: &mut HeaderMap,
    not_modified: &HeaderMap,
    control: &ResponseControl,
) {
    let is_client_specific = |name: &HeaderName| {
        *name == header::SET_COOKIE || control.excluded_fields().any(|listed| listed == name)
    };
    if !not_modified.keys().any(is_client_specific) {
        return;
    }
    let mut fields = not_modified.clone();
    hop::strip(&mut fields);
    for name in
        fields.keys().filter(|name| is_client_specific(name) && !CONTENT_FIELDS.contains(name))
    {
        if !response.contains_key(name) {
            for value in fields.get_all(name) {
                response.append(name.clone(), value.clone());
            }
        }
    }
}

/// The meaning of a response to HEAD for a stored response to GET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadUpdate {
    /// The content is the same: the fields are updated.
    Update,
    /// The content has changed: the stored response becomes stale.
    Expire,
}

/// Compares a 200 to HEAD with the stored response and the length of its content (RFC 9111 section 4.3.5). The content
/// is the same if the validators and the lengths are equal where both responses have them.
pub fn head_update(stored: &HeaderMap, len: u64, new: &HeaderMap) -> HeadUpdate {
    let differs = |name: &HeaderName| match (stored.get(name), new.get(name)) {
        (Some(a), Some(b)) => a != b,
        (None, Some(_)) => true,
        (Some(_) | None, None) => false,
    };
    let has_other_len =
        new.get(header::CONTENT_LENGTH).is_some_and(|value| *value != HeaderValue::from(len));
    let is_other = has_other_len || [header::ETAG, header::LAST_MODIFIED].iter().any(differs);
    if is_other { HeadUpdate::Expire } else { HeadUpdate::Update }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| text.parse().expect("a valid value");
        fields.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    #[test]
    fn unstored_fields_of_a_304_are_added_to_the_response() {
        let not_modified = map(&[
            ("set-cookie", "a"),
            ("set-cookie", "b"),
            ("x-user", "c"),
            ("connection", "x-hop"),
            ("x-hop", "d"),
            ("etag", "e"),
            ("age", "1"),
            ("cache-control", "private=\"x-user, x-hop, connection, etag\", max-age=60"),
        ]);
        let control = ResponseControl::of(&not_modified);
        let mut response = map(&[("age", "0")]);
        add_unstored_fields(&mut response, &not_modified, &control);
        assert_eq!(
            response,
            map(&[("age", "0"), ("set-cookie", "a"), ("set-cookie", "b"), ("x-user", "c")])
        );
        // With `SetCookie::Store` the cookies of the 304 are stored, and are in the response already.
        let before = response.clone();
        add_unstored_fields(&mut response, &not_modified, &control);
        assert_eq!(response, before);
    }
}
