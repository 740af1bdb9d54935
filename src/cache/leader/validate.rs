//! Validation: the update of a stored response by a newer one.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    super::{
        clock::Clock,
        object::{Object, compact},
        respond,
        shared::Shared,
    },
    Lead, Refusal,
};
use crate::{
    Response,
    semantics::cache::{
        Freshness, ResponseControl,
        freshness::Received,
        groups,
        status::CacheStatus,
        storable::{Exchange, has_use, retain_stored_fields, storable},
        update,
    },
};

impl Lead {
    /// Handles a 304: updates the stored response, and answers the request with it.
    pub(super) fn validated(
        &mut self,
        shared: &Shared,
        now: Duration,
        stale: &Arc<Object>,
        response: &Response,
    ) -> Response {
        shared.counters.validated.add();
        let mut object = updated(shared, stale, response.headers(), self.requested);
        // It is stored only if it was not invalidated since the request was sent.
        object.revision = shared.next_id();
        let control = ResponseControl::of(&object.headers);
        let exchange = Exchange {
            method: &Method::GET,
            request: &self.headers,
            request_control: &self.control,
            status: object.status,
            response: &object.headers,
            control: &control,
        };
        let selection = storable(&exchange, shared.options.set_cookie)
            .and_then(|storable| has_use(&exchange, &object.freshness).map(|()| storable.vary))
            .map_err(|reason| self.refusal(reason))
            // The 304 may have another `Vary`.
            .and_then(|vary| Ok((vary.key(self.sent()).ok_or(Refusal::OfResponse)?, vary)));
        let is_outdated = match &selection {
            Ok((vary_key, vary)) => {
                shared.known_vary.set(&self.key, vary);
                let selects_as_before = *vary == stale.vary && *vary_key == stale.vary_key;
                (object.vary, object.vary_key) = (vary.clone(), vary_key.clone());
                !selects_as_before
            }
            Err(reason) => *reason == Refusal::OfResponse,
        };
        if is_outdated {
            shared.flights.write(|| shared.store.remove(&self.key, stale));
        }
        let object = Arc::new(object);
        let context = self.context(now);
        let mut headers = respond::headers(&object, context.now);
        update::add_unstored_fields(&mut headers, response.headers(), &control);
        let mut answer = respond::of_object_with(context, &object, headers);
        let stored = selection.is_ok() && {
            let leader = self.leader(shared, &object.freshness, now);
            leader.is_some_and(|leader| leader.store(&*shared.store, &object))
        };
        let status = CacheStatus {
            forwarded_status: Some(StatusCode::NOT_MODIFIED.as_u16()),
            stored,
            ..CacheStatus::forwarded(self.reason)
        };
        shared.add_status(answer.headers_mut(), status);
        answer
    }
}

/// Returns a stored object with the fields of a newer response to the same request (RFC 9111 section 3.2).
pub(in crate::cache) fn updated(
    shared: &Shared,
    stored: &Object,
    new: &HeaderMap,
    requested: Duration,
) -> Object {
    let (now, date) = (shared.clock.now(), Clock::date());
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
    compact(&mut object.headers);
    if let Ok(groups) = groups::of(&object.headers) {
        object.groups = groups.into();
    }
    object
}
