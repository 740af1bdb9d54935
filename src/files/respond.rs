//! From what a path names to the response, by the request's method, preconditions and range.

use std::time::SystemTime;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};

use super::{
    entry::{Entry, Page},
    multipart,
};
use crate::{
    Body,
    semantics::{
        conditional::{self, Outcome},
        date::HttpDate,
        range::{self, Part},
    },
};

/// What a 304 repeats of a 200, as far as we send it: RFC 9110 section 15.4.5.
const OF_NOT_MODIFIED: [HeaderName; 3] =
    [header::ETAG, header::LAST_MODIFIED, header::CACHE_CONTROL];

/// The answer to a GET or HEAD request for `entry`.
pub(super) fn respond(request: &Parts, entry: &Entry) -> Response<Body> {
    match entry {
        Entry::File(page) => file(request, page),
        Entry::Folder => redirect(request),
        Entry::Missing => plain(&request.method, StatusCode::NOT_FOUND),
    }
}

/// A short text that says the status; HEAD gets its length only.
pub(super) fn plain(method: &Method, status: StatusCode) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("error");
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    complete(method, status, headers, Body::from(format!("{reason}\n")))
}

fn file(request: &Parts, page: &Page) -> Response<Body> {
    let Parts { method, headers, .. } = request;
    match conditional::evaluate(method, headers, Some(page.validators())) {
        Outcome::Proceed => {}
        Outcome::NotModified => return not_modified(page),
        Outcome::PreconditionFailed => return plain(method, StatusCode::PRECONDITION_FAILED),
    }
    match part(request, page) {
        Part::Whole => {
            complete(method, StatusCode::OK, page.headers.clone(), page.slice(0, page.len))
        }
        Part::Slice { first, last } => {
            let mut headers = page.headers.clone();
            headers.insert(header::CONTENT_RANGE, range::content_range(first, last, page.len));
            let body = page.slice(first, last - first + 1);
            complete(method, StatusCode::PARTIAL_CONTENT, headers, body)
        }
        Part::Several(parts) => {
            let mut headers = page.headers.clone();
            let (kind, body) = multipart::body(page, &parts);
            headers.insert(header::CONTENT_TYPE, kind);
            complete(method, StatusCode::PARTIAL_CONTENT, headers, body)
        }
        Part::Unsatisfiable => {
            let mut response = plain(method, StatusCode::RANGE_NOT_SATISFIABLE);
            let value = range::content_range_unsatisfied(page.len);
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            response
        }
    }
}

/// Step 5 of RFC 9110 section 13.2.2: the range, if there is one and If-Range lets it count.
fn part(request: &Parts, page: &Page) -> Part {
    if !request.headers.contains_key(header::RANGE) {
        return Part::Whole;
    }
    let now = HttpDate::from(SystemTime::now());
    if conditional::if_range(&request.headers, page.validators(), now) {
        range::requested(&request.method, &request.headers, page.len)
    } else {
        Part::Whole
    }
}

fn not_modified(page: &Page) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in OF_NOT_MODIFIED {
        if let Some(value) = page.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// To the same folder, with the slash, query and escapes as they came.
///
/// The reference is relative: it is right below any prefix that a router has cut off, and since
/// it begins with `./` no path can turn it into another host or scheme.
fn redirect(request: &Parts) -> Response<Body> {
    let path = request.uri.path();
    let name = path.rsplit('/').next().unwrap_or_default();
    let (mark, query) = request.uri.query().map_or(("", ""), |query| ("?", query));
    let location = format!("./{name}/{mark}{query}");
    let mut response = plain(&request.method, StatusCode::PERMANENT_REDIRECT);
    match HeaderValue::try_from(location) {
        Ok(location) => response.headers_mut().insert(header::LOCATION, location),
        Err(_) => return plain(&request.method, StatusCode::NOT_FOUND),
    };
    response
}

/// GET: the body, whose length frames the message. HEAD: that length, and no body.
fn complete(
    method: &Method,
    status: StatusCode,
    mut headers: HeaderMap,
    mut body: Body,
) -> Response<Body> {
    if method == Method::HEAD {
        let len = body.len().expect("bytes and slices of files know their length");
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        body = Body::empty();
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
