//! `HitForMiss`: a request for a key whose latest response could not be shared.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, StatusCode};

use super::{
    fetch::Fetch,
    forward::{Forward, Then},
    key::Key,
    leader::{Refusal, judge},
    request_fields::RequestFields,
    shared::Shared,
};
use crate::{
    Body, HttpService, Response,
    semantics::cache::{
        RequestControl, ResponseControl,
        status::{CacheStatus, Forwarded},
        storable::Exchange,
    },
};

/// Forwards a request for a key whose requests do not wait for each other before `until`.
pub(super) fn forward<S>(
    shared: &Arc<Shared>,
    inner: &S,
    fetch: Fetch,
    until: Duration,
) -> Forward<S>
where
    S: HttpService + Clone,
{
    shared.counters.misses.add();
    let Fetch { parts, fields, key, reason, now, .. } = fetch;
    let then = HitForMiss { key, fields, reason, requested: now, until };
    Forward::new(shared, inner, Request::from_parts(parts, Body::empty()), Then::HitForMiss(then))
}

/// A request that is forwarded unchanged, without a copy of its fields. Its response is not stored.
pub(super) struct HitForMiss {
    key: Key,
    fields: RequestFields,
    reason: Forwarded,
    requested: Duration,
    /// The time until which requests for the key do not wait for each other.
    until: Duration,
}

impl HitForMiss {
    /// Notes whether the response could be stored, and returns it.
    pub(super) fn finish(&self, shared: &Shared, mut response: Response) -> Response {
        shared.counters.not_stored.add();
        match self.judge(shared, &response) {
            // The next response is stored.
            Some(Ok(())) => shared.clear_hit_for_miss(&self.key),
            Some(Err(Refusal::OfResponse)) if !response.status().is_server_error() => {
                shared.extend_hit_for_miss(&self.key, Some(self.until), self.requested);
            }
            Some(Err(_)) | None => {}
        }
        shared.add_status(response.headers_mut(), CacheStatus::forwarded(self.reason));
        response
    }

    /// Decides whether such a response can be stored; `None` if this one does not show that.
    fn judge(&self, shared: &Shared, response: &Response) -> Option<Result<(), Refusal>> {
        let is_part =
            matches!(response.status(), StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT);
        if is_part || self.fields.has(RequestFields::AUTHORIZATION) {
            return None;
        }
        let control = ResponseControl::of(response.headers());
        let exchange = Exchange {
            method: &Method::GET,
            request: &HeaderMap::new(),
            request_control: &RequestControl::default(),
            status: response.status(),
            response: response.headers(),
            control: &control,
        };
        let received = || shared.clock.now();
        Some(judge(shared, &exchange, self.requested, received, response.body().len()).map(drop))
    }
}
