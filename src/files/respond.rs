//! Responses of an entry, by the request's method, preconditions and range.

use std::{sync::LazyLock, time::SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts,
};

use super::{
    entry::{Entry, Page, Variants},
    listing::Listing,
    multipart,
};
use crate::{
    Body,
    semantics::{
        conditional::{self, Outcome, Validators},
        date::HttpDate,
        negotiate::{Accepts, Coding, prefers},
        problem::{self, Format},
        range::{self, Part},
        target::{OriginalUri, RewrittenPath},
    },
};

/// Fields of a 200 that a 304 repeats (RFC 9110 section 15.4.5), as far as this service sends them.
const NOT_MODIFIED_FIELDS: [HeaderName; 4] =
    [header::ETAG, header::LAST_MODIFIED, header::CACHE_CONTROL, header::VARY];

/// Returns the response to a GET or HEAD request for `entry`. `status` applies if it is a file.
pub(super) fn respond(request: &Parts, entry: &Entry, status: StatusCode) -> Response<Body> {
    match entry {
        Entry::File(variants) => match select_variant(request, variants) {
            Some(page) if status == StatusCode::OK => file_response(request, page),
            Some(page) => fallback_response(request, page, status),
            None if status == StatusCode::OK => not_acceptable(request),
            // A fallback page is sent even if Accept-Encoding excludes all its variants.
            None => fallback_response(request, &variants.identity, status),
        },
        Entry::Listing(listing) => listing_response(request, listing),
        Entry::Directory => redirect(request),
        Entry::Missing => status_text(request, StatusCode::NOT_FOUND),
    }
}

/// The header fields of a status as text.
static TEXT_HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
    HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::VARY, HeaderValue::from_static("accept")),
    ])
});

/// Returns a response with the status as a short text, or as JSON if the client prefers that; HEAD gets
/// its length only.
pub(super) fn status_text(request: &Parts, status: StatusCode) -> Response<Body> {
    let format = match Format::of(&request.method, &request.headers) {
        Format::Grpc => Format::Text, // the status says whether the next service may answer
        format => format,
    };
    status_body(&request.method, status, format)
}

/// Returns a response with the status in this format.
pub(super) fn status_body(method: &Method, status: StatusCode, format: Format) -> Response<Body> {
    // The common case: requests for missing names.
    if status == StatusCode::NOT_FOUND && format == Format::Text {
        return complete(method, status, TEXT_HEADERS.clone(), Body::from("404 Not Found\n"));
    }
    let (parts, body) = problem::response(status, None, format).into_parts();
    let mut headers = parts.headers;
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    complete(method, status, headers, body)
}

/// Returns the variant that Accept-Encoding prefers; `None` if it accepts none.
fn select_variant<'a>(request: &Parts, variants: &'a Variants) -> Option<&'a Page> {
    let Variants { identity, encoded, is_negotiated } = variants;
    if !is_negotiated {
        return Some(identity);
    }
    let mut available = Vec::with_capacity(encoded.len() + 1);
    available.extend(encoded.iter().map(|(coding, _)| *coding));
    available.push(Coding::Identity);
    let best = Accepts::of(&request.headers).best(&available)?;
    let page = encoded.iter().find(|(coding, _)| *coding == best).map(|(_, page)| page);
    Some(page.unwrap_or(identity))
}

fn not_acceptable(request: &Parts) -> Response<Body> {
    let mut response = status_text(request, StatusCode::NOT_ACCEPTABLE);
    add_vary(response.headers_mut(), &HeaderValue::from_static("accept-encoding"));
    response
}

/// Returns the fallback page, whole and without validators, ranges and Cache-Control.
fn fallback_response(request: &Parts, page: &Page, status: StatusCode) -> Response<Body> {
    let mut headers = page.headers.clone();
    for name in [header::ETAG, header::LAST_MODIFIED, header::ACCEPT_RANGES, header::CACHE_CONTROL]
    {
        headers.remove(name);
    }
    complete(&request.method, status, headers, page.slice(0, page.len))
}

/// Returns the listing of a directory, as HTML unless the client prefers JSON.
fn listing_response(request: &Parts, listing: &Listing) -> Response<Body> {
    let prefers_json = prefers(&request.headers, "application/json", "text/html");
    let (content_type, body) = if prefers_json {
        ("application/json", &listing.json)
    } else {
        ("text/html; charset=utf-8", &listing.html)
    };
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    // It has no validators, and the page loads no resources.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let policy = HeaderValue::from_static("default-src 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    // `*` matches, because the listing exists; no entity tag does.
    if let Some(response) = evaluate_preconditions(request, &headers, Validators::default()) {
        return response;
    }
    complete(&request.method, StatusCode::OK, headers, Body::from(body.clone()))
}

fn file_response(request: &Parts, page: &Page) -> Response<Body> {
    let Parts { method, headers, .. } = request;
    let whole = || complete(method, StatusCode::OK, page.headers.clone(), page.slice(0, page.len));
    // One pass over the names: most requests have neither conditions nor ranges.
    if !headers.keys().any(|name| *name == header::RANGE || name.as_str().starts_with("if-")) {
        return whole();
    }
    if let Some(response) = evaluate_preconditions(request, &page.headers, page.validators()) {
        return response;
    }
    match requested_part(request, page) {
        Part::Whole => whole(),
        Part::Slice { first, last } => {
            let mut headers = page.headers.clone();
            headers.insert(header::CONTENT_RANGE, range::content_range(first, last, page.len));
            let body = page.slice(first, last - first + 1);
            complete(method, StatusCode::PARTIAL_CONTENT, headers, body)
        }
        Part::Several(parts) => {
            let mut headers = page.headers.clone();
            let (content_type, body) = multipart::body(page, &parts, request.extensions.get());
            headers.insert(header::CONTENT_TYPE, content_type);
            complete(method, StatusCode::PARTIAL_CONTENT, headers, body)
        }
        Part::Unsatisfiable => {
            let mut response =
                error_response(request, &page.headers, StatusCode::RANGE_NOT_SATISFIABLE);
            let value = range::content_range_unsatisfied(page.len);
            response.headers_mut().insert(header::CONTENT_RANGE, value);
            response
        }
    }
}

/// Evaluates the preconditions. Returns the response if they decide it; `ok_headers` are the headers of a 200.
fn evaluate_preconditions(
    request: &Parts,
    ok_headers: &HeaderMap,
    now: Validators<'_>,
) -> Option<Response<Body>> {
    match conditional::evaluate(&request.method, &request.headers, Some(now)) {
        Outcome::Proceed => None,
        Outcome::NotModified => Some(not_modified(ok_headers)),
        Outcome::PreconditionFailed => {
            Some(error_response(request, ok_headers, StatusCode::PRECONDITION_FAILED))
        }
    }
}

/// Returns an error response for one variant of a file, with the Vary of its 200: another variant may succeed.
fn error_response(request: &Parts, ok_headers: &HeaderMap, status: StatusCode) -> Response<Body> {
    let mut response = status_text(request, status);
    if let Some(vary) = ok_headers.get(header::VARY) {
        add_vary(response.headers_mut(), vary);
    }
    response
}

/// Sets Vary to the fields of the file and to Accept, on which the format of the text depends.
fn add_vary(headers: &mut HeaderMap, file_vary: &HeaderValue) {
    headers.insert(header::VARY, file_vary.clone());
    headers.append(header::VARY, HeaderValue::from_static("accept"));
}

/// Returns the requested part: step 5 of RFC 9110 section 13.2.2, Range subject to If-Range.
fn requested_part(request: &Parts, page: &Page) -> Part {
    let now = HttpDate::from(SystemTime::now());
    if !conditional::if_range(&request.headers, page.validators(), now) {
        return Part::Whole;
    }
    match range::requested(&request.method, &request.headers, page.len) {
        // Content-Encoding applies to the whole message, so a client would also decode the headers of the
        // parts.
        Part::Several(_) if page.headers.contains_key(header::CONTENT_ENCODING) => Part::Whole,
        part => part,
    }
}

fn not_modified(ok_headers: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in NOT_MODIFIED_FIELDS {
        if let Some(value) = ok_headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// Redirects to the same directory with the slash, and with query and escapes unchanged.
///
/// The reference is relative, so it is correct below any prefix that a router has stripped; as it begins
/// with `./`, no path can turn it into another host or scheme.
fn redirect(request: &Parts) -> Response<Body> {
    let uri = client_uri(request);
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    let (mark, query) = uri.query().map_or(("", ""), |query| ("?", query));
    let location = format!("./{name}/{mark}{query}");
    let mut response = status_text(request, StatusCode::PERMANENT_REDIRECT);
    match HeaderValue::try_from(location) {
        Ok(location) => response.headers_mut().insert(header::LOCATION, location),
        Err(_) => return status_text(request, StatusCode::NOT_FOUND),
    };
    response
}

/// Returns the URI that the client requested where it matters: at the root of a nested service, the router
/// makes `/` of the prefix with and without a trailing slash.
pub(super) fn client_uri(request: &Parts) -> &Uri {
    if request.uri.path() != "/" || request.extensions.get::<RewrittenPath>().is_some() {
        return &request.uri;
    }
    request.extensions.get::<OriginalUri>().map_or(&request.uri, |OriginalUri(original)| original)
}

/// Makes the response: for GET with the body, whose length frames the message; for HEAD with Content-Length
/// and no body.
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
