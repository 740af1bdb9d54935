//! `HeadFetch`: a HEAD request that updates the stored response to GET.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode};

use super::{key::Key, leader, object::Object, shared::Shared};
use crate::{
    Response,
    semantics::cache::{
        RequestControl, ResponseControl,
        status::{CacheStatus, Forwarded},
        storable::{Exchange, NotStored, storable},
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
    /// The number of invalidations when the request was sent.
    pub(super) invalidations: u64,
}

/// What a response to HEAD changes in the store.
enum Change {
    /// The stored response gets its fields.
    Update(Arc<Object>),
    /// The stored response becomes stale. The next GET validates it.
    Expire,
    /// The stored response is removed, since a response with these fields must not be stored.
    Remove,
}

impl HeadFetch {
    /// Updates the stored response by the response to the request, which is returned.
    pub(super) fn finish(&self, shared: &Shared, mut response: Response) -> Response {
        let Self { key, stale, reason, .. } = self;
        if response.status() == StatusCode::OK {
            let (flights, sent_after) = (&shared.flights, self.invalidations);
            let replace = |new| shared.store.replace(key, stale, &new);
            match self.change(shared, response.headers()) {
                // After an invalidation, the response may describe the content before it.
                Change::Update(object) => {
                    flights.write_unless_invalidated(key, sent_after, || replace(object));
                }
                Change::Expire => {
                    let mut expired = Object::clone(stale);
                    expired.freshness.expire(shared.clock.now());
                    flights.write(|| replace(Arc::new(expired)));
                }
                Change::Remove => shared.flights.write(|| shared.store.remove(key, stale)),
            }
        }
        shared.add_status(response.headers_mut(), CacheStatus::forwarded(*reason));
        response
    }

    /// Decides what the fields of a 200 change.
    fn change(&self, shared: &Shared, new: &HeaderMap) -> Change {
        let stale = &self.stale;
        // Before the update, which removes `Set-Cookie`.
        if let Err(reason) = vary_of_storable(shared, new) {
            return Change::of(reason);
        }
        let update = update::head_update(&stale.headers, stale.content.len(), new);
        if update == HeadUpdate::Expire || stale.status != StatusCode::OK {
            return Change::Expire;
        }
        let object = leader::updated(shared, stale, new, self.requested);
        match vary_of_storable(shared, &object.headers) {
            Ok(vary) if vary == stale.vary => Change::Update(Arc::new(object)),
            // The next GET finds out which requests a response with another `Vary` answers.
            Ok(_) => Change::Expire,
            Err(reason) => Change::of(reason),
        }
    }
}

impl Change {
    /// Returns the change by a response that must not be stored.
    fn of(reason: NotStored) -> Self {
        if reason == NotStored::Vary { Self::Expire } else { Self::Remove }
    }
}

/// Returns the `Vary` of a response to GET with these fields.
///
/// # Errors
/// The reason why the response must not be stored.
fn vary_of_storable(shared: &Shared, response: &HeaderMap) -> Result<Vary, NotStored> {
    let exchange = Exchange {
        method: &Method::GET,
        request: &HeaderMap::new(),
        request_control: &RequestControl::default(),
        status: StatusCode::OK,
        response,
        control: &ResponseControl::of(response),
    };
    storable(&exchange, shared.options.set_cookie).map(|storable| storable.vary)
}
