//! Builds responses from stored objects and fills, according to the request's method, conditions and range.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{
    clock::Clock, fill::Fill, object::Object, request_fields::RequestFields, service::hit_status,
    shared::Shared,
};
use crate::{
    Body, Response,
    semantics::{
        cache::{
            Freshness,
            select::{self, Selected, select},
        },
        range::{self, Part},
    },
};

/// The parts of a request, and the times, that a response depends on.
#[derive(Clone, Copy)]
pub(super) struct RequestContext<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    /// Those among `headers` that matter.
    pub(super) fields: RequestFields,
    /// The time of the cache.
    pub(super) now: Duration,
}

impl RequestContext<'_> {
    /// Evaluates the conditions and the range of the request. Most requests have neither, and spare the wall clock.
    fn select(&self, status: StatusCode, stored: &HeaderMap, len: Option<u64>) -> Selected {
        if !self.fields.has(RequestFields::CONDITION | RequestFields::RANGE) {
            return Selected::Whole;
        }
        select(self.method, self.headers, status, stored, len, Clock::date())
    }
}

/// Returns the response of a stored object.
pub(super) fn of_object(context: RequestContext<'_>, object: &Object) -> Response {
    of_object_with(context, object, headers(object, context.now))
}

/// Returns the fields of a stored object's response.
pub(super) fn headers(object: &Object, now: Duration) -> HeaderMap {
    let mut headers = object.headers.clone();
    headers.insert(header::AGE, age(&object.freshness, now));
    headers
}

/// Returns the response of an object with these fields.
pub(super) fn of_object_with(
    context: RequestContext<'_>,
    object: &Object,
    headers: HeaderMap,
) -> Response {
    let len = object.content.len();
    let content = |part: Option<(u64, u64)>| match part {
        None => Some(object.content.body()),
        Some((first, last)) => Some(object.content.part(first, last)),
    };
    respond(context, object.status, headers, Some(len), content).expect("an object is complete")
}

/// Returns the response of a hit, with its `Cache-Status`.
pub(super) fn of_hit(shared: &Shared, context: RequestContext<'_>, object: &Object) -> Response {
    let age = object.freshness.age(context.now);
    let status = hit_status(object, age);
    let make = || {
        let mut headers = object.headers.clone();
        headers.insert(header::AGE, HeaderValue::from(age.as_secs()));
        shared.add_status(&mut headers, status);
        headers
    };
    let headers = object.hit_fields.get((age.as_secs(), status.ttl.unwrap_or_default()), make);
    of_object_with(context, object, headers)
}

/// Returns the response of a fill with these fields; `None` if the beginning of the content was dropped.
pub(super) fn of_fill(
    context: RequestContext<'_>,
    fill: &Arc<Fill>,
    headers: HeaderMap,
) -> Option<Response> {
    let content = |part: Option<(u64, u64)>| match part {
        None => fill.reader(0, None),
        Some((first, last)) => fill.reader(first, Some(last)),
    };
    respond(context, fill.head.status, headers, fill.head.len, content)
}

/// Evaluates the conditions of a request for a response that is not stored. The origin did not receive them.
pub(super) fn of_response(context: RequestContext<'_>, response: Response) -> Response {
    let selected = context.select(response.status(), response.headers(), None);
    if selected != Selected::NotModified {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    select::retain_not_modified_fields(&mut parts.headers);
    parts.status = StatusCode::NOT_MODIFIED;
    Response::from_parts(parts, Body::empty())
}

/// Returns the fields of a fill for a follower: those that are stored, and `Age`.
pub(super) fn shared_headers(fill: &Fill, now: Duration) -> HeaderMap {
    let mut headers = fill.head.headers.clone();
    headers.insert(header::AGE, age(&fill.head.freshness, now));
    headers
}

/// Returns the age in seconds.
pub(super) fn age(freshness: &Freshness, now: Duration) -> HeaderValue {
    HeaderValue::from(freshness.age(now).as_secs())
}

/// Builds a response. `content` returns the body for a range (first and last offset), or for the whole content.
fn respond(
    context: RequestContext<'_>,
    status: StatusCode,
    mut headers: HeaderMap,
    len: Option<u64>,
    content: impl FnOnce(Option<(u64, u64)>) -> Option<Body>,
) -> Option<Response> {
    let (status, body) = match context.select(status, &headers, len) {
        Selected::NotModified => {
            select::retain_not_modified_fields(&mut headers);
            (StatusCode::NOT_MODIFIED, Body::empty())
        }
        Selected::Part(Part::Slice { first, last }) => {
            let len = len.expect("a part is selected of a known length");
            select::retain_part_fields(&mut headers);
            headers.insert(header::CONTENT_RANGE, range::content_range(first, last, len));
            (StatusCode::PARTIAL_CONTENT, content(Some((first, last)))?)
        }
        Selected::Part(Part::Unsatisfiable) => {
            let len = len.expect("a part is selected of a known length");
            select::retain_unsatisfiable_fields(&mut headers);
            headers.insert(header::CONTENT_RANGE, range::content_range_unsatisfied(len));
            (StatusCode::RANGE_NOT_SATISFIABLE, Body::empty())
        }
        // RFC 9110 section 14.2 permits to ignore several ranges.
        Selected::Whole | Selected::Part(Part::Whole | Part::Several(_)) => {
            if *context.method == Method::HEAD {
                if let Some(len) = len {
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
                }
                (status, Body::empty())
            } else {
                (status, content(None)?)
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Some(response)
}
