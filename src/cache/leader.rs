//! The fetch of a response for the store: validation, the decision whether to store the response, and its content.

mod validate;

use std::{sync::Arc, task::Context, time::Duration};

use http::{HeaderMap, Method, Request, StatusCode, header};

pub(super) use self::validate::updated;
use super::{
    clock::Clock,
    fetch::Fetch,
    fill::Head,
    flight::Leader,
    forward::{Forward, Then},
    key::Key,
    object::{Object, announced_len, compact},
    pump,
    request_fields::RequestFields,
    respond::{self, RequestContext},
    service::hit_status,
    shared::Shared,
};
use crate::{
    Body, HttpService, Response,
    error::BoxError,
    semantics::cache::{
        Freshness, RequestControl, ResponseControl,
        freshness::Received,
        status::{CacheStatus, Forwarded},
        storable::{Exchange, NotStored, Storable, has_use, retain_stored_fields, storable},
        update,
        vary::normalize_accept_encoding,
    },
};

/// Forwards a request for the whole response, which is stored if that is permitted.
pub(super) fn forward<S>(
    shared: &Arc<Shared>,
    inner: &mut S,
    fetch: Fetch,
    entry: Entry,
) -> Forward<S>
where
    S: HttpService + Clone,
{
    let Fetch { parts, fields, control, key, stale, reason, now, .. } = fetch;
    let headers = parts.headers.clone();
    let mut request = Request::from_parts(parts, Body::empty());
    let change = prepare(request.headers_mut(), fields, stale.as_deref());
    let lead = Lead {
        key,
        stale,
        reason,
        control,
        sent: change.alters_conditions.then(|| request.headers().clone()),
        headers,
        fields,
        is_validation: change.is_validation,
        requested: now,
        entry: Some(entry),
    };
    Forward::new(shared, inner, request, Then::Store(lead))
}

/// The result of [`prepare`].
struct Prepared {
    /// Whether the conditions or the range differ from those of the client.
    alters_conditions: bool,
    /// Whether the request has the validators of the stored response.
    is_validation: bool,
}

/// Changes the fields of a request so that the whole response is requested, with the validators of the stored one.
fn prepare(headers: &mut HeaderMap, fields: RequestFields, stale: Option<&Object>) -> Prepared {
    let has_conditions = fields.has(RequestFields::CONDITION | RequestFields::RANGE);
    let is_validation = match stale {
        Some(stale) => update::add_conditions(headers, &stale.headers),
        None => {
            if has_conditions {
                update::remove_conditions(headers);
            }
            false
        }
    };
    if fields.has(RequestFields::ACCEPT_ENCODING) {
        match normalize_accept_encoding(headers) {
            Some(value) => drop(headers.insert(header::ACCEPT_ENCODING, value)),
            None => drop(headers.remove(header::ACCEPT_ENCODING)),
        }
    }
    Prepared { alters_conditions: stale.is_some() || has_conditions, is_validation }
}

/// A request that was forwarded, and whose response may be stored.
pub(super) struct Lead {
    key: Key,
    stale: Option<Arc<Object>>,
    reason: Forwarded,
    control: RequestControl,
    /// The fields of the client's request.
    headers: HeaderMap,
    fields: RequestFields,
    /// The fields that the origin has received, if other conditions than the client's are among them.
    sent: Option<HeaderMap>,
    is_validation: bool,
    requested: Duration,
    /// `None` after the response.
    entry: Option<Entry>,
}

/// The entry of a fetch in the list of those in progress.
pub(super) enum Entry {
    Leader(Leader),
    /// It is listed once the head has been received, if the number of invalidations is still this one.
    Late(u64),
}

impl Lead {
    /// Stores the response if that is permitted, and returns the response to the client.
    pub(super) fn finish(
        &mut self,
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
        result: Result<Response, BoxError>,
    ) -> Result<Response, BoxError> {
        let result = self.respond(shared, cx, result);
        // If the response is not stored, its followers are forwarded.
        self.entry = None;
        result
    }

    fn respond(
        &mut self,
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
        result: Result<Response, BoxError>,
    ) -> Result<Response, BoxError> {
        let now = shared.clock.now();
        let response = match result {
            Ok(response) => response,
            Err(error) => return self.unreachable_origin(shared, now, None).ok_or(error),
        };
        if self.is_validation
            && response.status() == StatusCode::NOT_MODIFIED
            && let Some(stale) = self.stale.clone()
        {
            return Ok(self.validated(shared, now, &stale, &response));
        }
        if let Some(stale) = self.unreachable_origin(shared, now, Some(response.status())) {
            return Ok(stale);
        }
        Ok(self.received(shared, now, cx, response))
    }

    /// Returns the leader of a response with this freshness; `None` if the response must not be stored.
    fn leader(&mut self, shared: &Shared, freshness: &Freshness, now: Duration) -> Option<Leader> {
        let entry = self.entry.take()?;
        if !freshness.is_shareable() {
            // The requests that wait for it are forwarded, and later ones do not wait.
            shared.set_hit_for_miss(&self.key, now);
        }
        match entry {
            Entry::Leader(leader) => Some(leader),
            Entry::Late(invalidations) => {
                if freshness.is_shareable() {
                    // From now on, requests may wait for each other.
                    shared.clear_hit_for_miss(&self.key);
                }
                shared.flights.lead_late(&self.key, invalidations, &shared.options)
            }
        }
    }

    fn context(&self, now: Duration) -> RequestContext<'_> {
        RequestContext { method: &Method::GET, headers: &self.headers, fields: self.fields, now }
    }

    /// Returns the fields that select the variant: those that the origin has received.
    fn sent(&self) -> &HeaderMap {
        // Those of the client select the same variant, since their encodings and languages are compared in a normal form.
        self.sent.as_ref().unwrap_or(&self.headers)
    }

    /// Returns the stale response, if it may be used instead of an error of the service (no `status`) or of this status.
    fn unreachable_origin(
        &self,
        shared: &Shared,
        now: Duration,
        status: Option<StatusCode>,
    ) -> Option<Response> {
        let stale = self.stale.as_ref()?;
        let context = self.context(now);
        let is_unreachable =
            matches!(status, None | Some(StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT));
        // RFC 5861 section 4.
        let is_error = matches!(
            status,
            Some(StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE)
        );
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
            forwarded: Some(self.reason),
            forwarded_status: status.map(|status| status.as_u16()),
            ..hit_status(stale, stale.freshness.age(now))
        };
        shared.add_status(response.headers_mut(), status);
        Some(response)
    }

    /// Handles any other response.
    fn received(
        &mut self,
        shared: &Arc<Shared>,
        now: Duration,
        cx: &mut Context<'_>,
        response: Response,
    ) -> Response {
        let mut status = CacheStatus::forwarded(self.reason);
        let head = match self.head(shared, now, &response) {
            Ok(head) => head,
            Err(reason) => {
                shared.counters.not_stored.add();
                self.refuse(shared, now, response.status(), reason);
                let mut response = respond::of_response(self.context(now), response);
                shared.add_status(response.headers_mut(), status);
                return response;
            }
        };
        shared.known_vary.set(&self.key, &head.vary);
        let leader = self.leader(shared, &head.freshness, now);
        let context = self.context(now);
        let Some(leader) = leader else {
            shared.counters.uncollapsed.add();
            let mut response = respond::of_response(context, response);
            shared.add_status(response.headers_mut(), status);
            return response;
        };
        let (mut answer, is_stored) = pump::store(shared, cx, context, head, response, leader);
        status.stored = is_stored;
        shared.add_status(answer.headers_mut(), status);
        answer
    }

    /// Returns the head of a response to store, or the reason not to store it.
    fn head(
        &self,
        shared: &Shared,
        received: Duration,
        response: &Response,
    ) -> Result<Head, Refusal> {
        let control = ResponseControl::of(response.headers());
        let exchange = Exchange {
            method: &Method::GET,
            request: &self.headers,
            request_control: &self.control,
            status: response.status(),
            response: response.headers(),
            control: &control,
        };
        let storable = storable(&exchange, shared.options.set_cookie)
            .map_err(|reason| self.refusal(reason))?;
        let date = Clock::date();
        let times = Received { requested: self.requested, received, date };
        let lifetimes = &shared.options.lifetimes;
        let freshness =
            Freshness::of(response.status(), response.headers(), &control, times, lifetimes);
        has_use(&exchange, &freshness).map_err(|_| Refusal::OfResponse)?;
        let len = announced_len(response.headers()).or_else(|| response.body().len());
        if len.is_some_and(|len| len > shared.store.max_object())
            || shared.budget.is_above_soft_limit()
        {
            return Err(Refusal::OfResponse);
        }
        let Storable { vary, groups } = storable;
        let vary_key = vary.key(self.sent()).ok_or(Refusal::OfResponse)?;
        let mut headers = response.headers().clone();
        headers.remove(header::CONTENT_LENGTH);
        retain_stored_fields(&mut headers, &control, shared.options.set_cookie, date);
        compact(&mut headers);
        let cost = received.saturating_sub(self.requested);
        let status = response.status();
        let id = shared.next_id();
        let groups = if groups.is_empty() { Arc::default() } else { groups.into() };
        Ok(Head { id, status, headers, freshness, vary, vary_key, groups, cost, len })
    }

    fn refusal(&self, reason: NotStored) -> Refusal {
        match reason {
            NotStored::NoStore if self.control.no_store => Refusal::OfRequest,
            NotStored::Authorization => Refusal::OfRequest,
            _ => Refusal::OfResponse,
        }
    }

    /// Notes that a response is not stored.
    fn refuse(&self, shared: &Shared, now: Duration, status: StatusCode, reason: Refusal) {
        if reason == Refusal::OfRequest {
            return;
        }
        // After a failure of the origin, waiting requests are forwarded one after another.
        if !is_transient(status) {
            shared.set_hit_for_miss(&self.key, now);
        }
        // The stored response is outdated. With credentials, the response may be that of their owner alone.
        let is_outdated =
            concerns_resource(status) && !self.fields.has(RequestFields::AUTHORIZATION);
        if is_outdated && let Some(stale) = &self.stale {
            shared.flights.write(|| shared.store.remove(&self.key, stale));
        }
    }
}

/// Returns whether a status is a failure of the origin, or a refusal that does not last.
fn is_transient(status: StatusCode) -> bool {
    let is_refused_for_now = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_server_error() || is_refused_for_now
}

/// Returns whether a response with this status describes the present state of the resource. Other errors of clients depend on
/// the client or its request: any client could remove stored responses by them.
fn concerns_resource(status: StatusCode) -> bool {
    status.is_success()
        || (status.is_redirection() && status != StatusCode::NOT_MODIFIED)
        || matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// The reason why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The request forbids it. The response to another request may be storable.
    OfRequest,
    /// The response forbids it. Responses to other requests are probably not storable either.
    OfResponse,
}
