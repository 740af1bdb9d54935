//! The fetch of a response for the store: validation, the decision whether to store the response, and its content.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request, StatusCode, header};

use super::{
    fetch::Fetch,
    fill::{Fill, Head},
    flight::Leader,
    object::{Object, announced_len},
    pump, respond,
    service::hit_status,
    shared::Shared,
};
use crate::{
    Body, HttpService, Response,
    error::BoxError,
    semantics::cache::{
        Freshness, ResponseControl, Vary,
        freshness::Received,
        groups,
        status::CacheStatus,
        storable::{Exchange, NotStored, retain_stored_fields, storable},
        update,
        vary::normalize_accept_encoding,
    },
};

/// Fetches the response to a request, stores it if that is permitted, and returns it.
pub(super) async fn fetch<S>(
    shared: Arc<Shared>,
    inner: S,
    fetch: &Fetch,
    leader: Leader,
) -> Result<Response, BoxError>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let (request, is_validation) = origin_request(fetch);
    // The fields that the origin receives select the variant.
    let sent = request.headers().clone();
    let requested = shared.clock.now();
    let response = match super::call(inner, request).await {
        Ok(response) => response,
        Err(error) => {
            leader.release();
            return unreachable_origin(&shared, fetch, None).ok_or(error);
        }
    };
    if is_validation
        && response.status() == StatusCode::NOT_MODIFIED
        && let Some(stale) = &fetch.stale
    {
        return Ok(validated(&shared, fetch, stale, &response, requested, leader));
    }
    if let Some(stale) = unreachable_origin(&shared, fetch, Some(response.status())) {
        leader.release();
        return Ok(stale);
    }
    Ok(received(shared, fetch, &sent, response, requested, leader).await)
}

/// Returns the request for the whole response, with the validators of the stored response, and whether it has any.
fn origin_request(fetch: &Fetch) -> (Request<Body>, bool) {
    let mut request = Request::from_parts(fetch.parts.clone(), Body::empty());
    let headers = request.headers_mut();
    let is_validation = match &fetch.stale {
        Some(stale) => update::add_conditions(headers, &stale.headers),
        None => {
            update::remove_conditions(headers);
            false
        }
    };
    if headers.contains_key(header::ACCEPT_ENCODING) {
        match normalize_accept_encoding(headers) {
            Some(value) => drop(headers.insert(header::ACCEPT_ENCODING, value)),
            None => drop(headers.remove(header::ACCEPT_ENCODING)),
        }
    }
    (request, is_validation)
}

/// Returns the stale response, if it may be used instead of an error of the service (no `status`) or of this status.
fn unreachable_origin(
    shared: &Shared,
    fetch: &Fetch,
    status: Option<StatusCode>,
) -> Option<Response> {
    let stale = fetch.stale.as_ref()?;
    let context = fetch.context(shared);
    let is_unreachable =
        matches!(status, None | Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
    // RFC 5861 section 4.
    let is_error =
        matches!(status, Some(StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE));
    let window = shared.options.stale_if_unreachable;
    let is_usable = (is_unreachable && stale.freshness.is_usable_for(window, context.now))
        || (is_error && stale.freshness.is_usable_on_error(context.now));
    if !is_usable {
        return None;
    }
    shared.counters.stale_hits.add();
    shared.counters.concealed_errors.add();
    let mut response = respond::of_object(context, stale);
    let status = CacheStatus {
        forwarded: Some(fetch.reason),
        forwarded_status: status.map(|status| status.as_u16()),
        ..hit_status(stale, context.now)
    };
    shared.add_status(&mut response, status);
    Some(response)
}

/// Handles a 304: updates the stored response, and answers the request with it.
fn validated(
    shared: &Shared,
    fetch: &Fetch,
    stale: &Arc<Object>,
    response: &Response,
    requested: Duration,
    leader: Leader,
) -> Response {
    shared.counters.validated.add();
    let mut object = updated(shared, stale, response.headers(), requested);
    // It is stored only if it was not invalidated since the request was sent.
    object.revision = shared.next_id();
    let control = ResponseControl::of(&object.headers);
    let request_control = shared.control(fetch.headers());
    let exchange = Exchange {
        method: &http::Method::GET,
        request: fetch.headers(),
        request_control: &request_control,
        status: object.status,
        response: &object.headers,
        control: &control,
        freshness: &object.freshness,
    };
    let is_storable = storable(&exchange, shared.options.set_cookie).is_ok();
    let object = Arc::new(object);
    let stored = if is_storable {
        leader.store(&*shared.store, &object)
    } else {
        // The new fields forbid storing it.
        shared.flights.write(|| shared.store.remove(&fetch.key, stale));
        leader.release();
        false
    };
    let mut answer = respond::of_object(fetch.context(shared), &object);
    let status = CacheStatus {
        forwarded_status: Some(StatusCode::NOT_MODIFIED.as_u16()),
        stored,
        ..CacheStatus::forwarded(fetch.reason)
    };
    shared.add_status(&mut answer, status);
    answer
}

/// Returns a stored object with the fields of a newer response to the same request (RFC 9111 section 3.2).
pub(super) fn updated(
    shared: &Shared,
    stored: &Object,
    new: &HeaderMap,
    requested: Duration,
) -> Object {
    let (now, date) = (shared.clock.now(), shared.clock.date());
    let mut object = stored.clone();
    let mut new = new.clone();
    crate::semantics::hop::strip(&mut new);
    // Without `Date`, its age counts from its receipt, and not from that of the stored response (RFC 9110 section
    // 6.6.1).
    if !new.contains_key(header::DATE) {
        new.insert(header::DATE, date.to_value());
    }
    update::update(&mut object.headers, &new);
    let control = ResponseControl::of(&object.headers);
    let times = Received { requested, received: now, date };
    let lifetimes = &shared.options.lifetimes;
    object.freshness = Freshness::of(object.status, &object.headers, &control, times, lifetimes);
    retain_stored_fields(&mut object.headers, &control, shared.options.set_cookie, date);
    if let Ok(groups) = groups::of(&object.headers) {
        object.groups = groups.into();
    }
    object
}

/// Handles any other response.
async fn received(
    shared: Arc<Shared>,
    fetch: &Fetch,
    sent: &HeaderMap,
    response: Response,
    requested: Duration,
    leader: Leader,
) -> Response {
    let mut status = CacheStatus::forwarded(fetch.reason);
    let head = match head(&shared, fetch, sent, &response, requested) {
        Ok(head) => head,
        Err(reason) => {
            shared.counters.not_stored.add();
            refuse(&shared, fetch, response.status(), reason, leader);
            let mut response = respond::of_response(fetch.context(&shared), response);
            shared.add_status(&mut response, status);
            return response;
        }
    };
    shared.clear_hit_for_miss(&fetch.key);
    let (parts, body) = response.into_parts();
    let fill = Fill::new(head);
    // Created before the content is read, so that this reader gets it from the first byte.
    let context = fetch.context(&shared);
    let answer = respond::of_fill(context, &fill, parts.headers);
    leader.open(fill.clone());
    status.stored = true;
    pump::start(&shared, fill, body, leader).await;
    let mut answer = answer.expect("a new fill has all of its content");
    shared.add_status(&mut answer, status);
    answer
}

/// Returns the head of a response to store, or the reason not to store it.
fn head(
    shared: &Shared,
    fetch: &Fetch,
    sent: &HeaderMap,
    response: &Response,
    requested: Duration,
) -> Result<Head, Refusal> {
    let (received, date) = (shared.clock.now(), shared.clock.date());
    let control = ResponseControl::of(response.headers());
    let times = Received { requested, received, date };
    let lifetimes = &shared.options.lifetimes;
    let freshness =
        Freshness::of(response.status(), response.headers(), &control, times, lifetimes);
    let request_control = shared.control(fetch.headers());
    let exchange = Exchange {
        method: &fetch.parts.method,
        request: sent,
        request_control: &request_control,
        status: response.status(),
        response: response.headers(),
        control: &control,
        freshness: &freshness,
    };
    storable(&exchange, shared.options.set_cookie).map_err(|reason| match reason {
        NotStored::NoStore if request_control.no_store => Refusal::OfRequest,
        NotStored::Authorization => Refusal::OfRequest,
        _ => Refusal::OfResponse,
    })?;
    let len = announced_len(response.headers()).or_else(|| response.body().len());
    if len.is_some_and(|len| len > shared.store.max_object()) || shared.budget.is_above_soft_limit()
    {
        return Err(Refusal::OfResponse);
    }
    let vary = Vary::of(response.headers());
    let vary_key = vary.key(sent).ok_or(Refusal::OfResponse)?;
    let groups = groups::of(response.headers()).map_err(|_| Refusal::OfResponse)?.into();
    let mut headers = response.headers().clone();
    headers.remove(header::CONTENT_LENGTH);
    retain_stored_fields(&mut headers, &control, shared.options.set_cookie, date);
    let cost = received.saturating_sub(requested);
    let status = response.status();
    let id = shared.next_id();
    Ok(Head { id, status, headers, freshness, vary, vary_key, groups, cost, len })
}

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The request forbids it. The response to another request may be storable.
    OfRequest,
    /// The response forbids it. Responses to other requests are probably not storable either.
    OfResponse,
}

/// Ends a fetch whose response is not stored.
fn refuse(shared: &Shared, fetch: &Fetch, status: StatusCode, reason: Refusal, leader: Leader) {
    // After a failure of the origin, waiting requests are forwarded one after another.
    if reason == Refusal::OfResponse && !status.is_server_error() {
        shared.set_hit_for_miss(&fetch.key);
    }
    // The response shows that the stored one is outdated.
    if !status.is_server_error()
        && let Some(stale) = &fetch.stale
    {
        shared.flights.write(|| shared.store.remove(&fetch.key, stale));
    }
    leader.release();
}
