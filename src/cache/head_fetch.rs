//! `HeadFetch`: a HEAD request that updates the stored response to GET.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode};

use super::{key::Key, leader, object::Object, shared::Shared};
use crate::{
    Response,
    semantics::cache::{
        RequestControl, ResponseControl,
        status::{CacheStatus, Forwarded},
        storable::{Exchange, storable},
        update::{self, HeadUpdate},
        vary::Vary,
    },
};

/// A HEAD request for a stored response that is not fresh.
pub(super) struct HeadFetch {
    pub(super) key: Key,
    pub(super) stale: Arc<Object>,
    pub(super) reason: Forwarded,
    pub(super) requested: Duration,
}

impl HeadFetch {
    /// Updates the stored response by the response to the request, which is returned.
    pub(super) fn finish(&self, shared: &Shared, mut response: Response) -> Response {
        let Self { key, stale, reason, requested } = self;
        if response.status() == StatusCode::OK {
            let new = response.headers();
            let updated = match update::head_update(&stale.headers, stale.content.len(), new) {
                HeadUpdate::Update => Some(leader::updated(shared, stale, new, *requested)),
                HeadUpdate::Expire => None,
            };
            // The next GET finds out which requests a response with another `Vary` answers, and whether it is still stored.
            let updated = updated.filter(|object| may_store(shared, object, &stale.vary));
            let replacement = Arc::new(updated.unwrap_or_else(|| {
                let mut expired = Object::clone(stale);
                expired.freshness.expire(shared.clock.now());
                expired
            }));
            shared.flights.write(|| shared.store.replace(key, stale, &replacement));
        }
        shared.add_status(response.headers_mut(), CacheStatus::forwarded(*reason));
        response
    }
}

/// Returns whether an updated object may be stored, with this `Vary`.
fn may_store(shared: &Shared, object: &Object, vary: &Vary) -> bool {
    let exchange = Exchange {
        method: &Method::GET,
        request: &HeaderMap::new(),
        request_control: &RequestControl::default(),
        status: object.status,
        response: &object.headers,
        control: &ResponseControl::of(&object.headers),
    };
    storable(&exchange, shared.options.set_cookie).is_ok_and(|storable| storable.vary == *vary)
}
