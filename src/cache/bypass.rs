//! Requests that bypass the cache. Unsafe ones invalidate stored responses.

use std::sync::Arc;

use http::{Method, Request};

use super::{
    forward::{Forward, Then},
    handle,
    key::Key,
    shared::Shared,
    store::Purge,
};
use crate::{
    Body, HttpService, Response,
    semantics::cache::{groups, invalidate, status::Forwarded},
};

/// Forwards a request unchanged.
pub(super) fn bypass<S>(shared: &Arc<Shared>, inner: &mut S, request: Request<Body>) -> Forward<S>
where
    S: HttpService + Clone,
{
    let then = match request.method() {
        &Method::GET | &Method::HEAD => Then::Pass(Forwarded::Bypass),
        method if invalidate::is_unsafe(method) => match Key::of(&request, &shared.options.query) {
            Some(target) => Then::Invalidate(target),
            None => Then::Pass(Forwarded::Method),
        },
        _ => Then::Pass(Forwarded::Method),
    };
    Forward::new(shared, inner, request, then)
}

/// Invalidates the stored responses of the target of an unsafe request, and those that its response names, unless the
/// response is an error (RFC 9111 section 4.4 and RFC 9875 section 3).
pub(super) fn invalidate(shared: &Arc<Shared>, target: &Key, response: &Response) {
    if !invalidate::invalidates(response.status()) {
        return;
    }
    handle::delete(shared, target, Purge::Hard);
    let response = response.headers();
    if !invalidate::has_references_or_groups(response) {
        return;
    }
    let (scheme, authority, origin) = target.origin();
    for reference in invalidate::targets(scheme, authority, target.path(), response) {
        let (path, query) = match reference.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*reference, None),
        };
        let key = shared.options.query.key(scheme, authority, path, query);
        if let Some(key) = key {
            handle::delete(shared, &key, Purge::Hard);
        }
    }
    let groups = groups::invalidated(response);
    if !groups.is_empty() {
        handle::invalidate_groups(shared, &groups, origin, Purge::Hard);
    }
}
