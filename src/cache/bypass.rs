//! Requests that bypass the cache. Unsafe ones invalidate stored responses.

use std::sync::Arc;

use http::{Method, Request, Uri};

use super::{
    forward::{Forward, Then},
    handle,
    key::{self, Key},
    shared::Shared,
    store::Purge,
};
use crate::{
    Body, HttpService, Response,
    semantics::cache::{groups, invalidate, status::Forwarded},
};

/// Forwards a request unchanged.
pub(super) fn bypass<S>(shared: &Arc<Shared>, inner: &S, request: Request<Body>) -> Forward<S>
where
    S: HttpService + Clone,
{
    let then = match request.method() {
        &Method::GET | &Method::HEAD => Then::Pass(Forwarded::Bypass),
        method if invalidate::is_unsafe(method) => match Target::of(shared, &request) {
            Some(target) => Then::Invalidate(target),
            None => Then::Pass(Forwarded::Method),
        },
        _ => Then::Pass(Forwarded::Method),
    };
    Forward::new(shared, inner, request, then)
}

/// The target of an unsafe request.
pub(super) struct Target {
    key: Key,
    /// As the client sent it: references in the response are relative to it.
    uri: Uri,
}

impl Target {
    /// Returns the target; `None` if it has no key.
    fn of(shared: &Shared, request: &Request<Body>) -> Option<Self> {
        let key = Key::of(request, &shared.options.query)?;
        Some(Self { key, uri: key::uri_of(request).clone() })
    }

    /// Invalidates stored responses, unless the response is an error (RFC 9111 section 4.4 and RFC 9875 section 3).
    pub(super) fn invalidate(&self, shared: &Arc<Shared>, response: &Response) {
        if !invalidate::invalidates(response.status()) {
            return;
        }
        let (Self { key, uri }, response) = (self, response.headers());
        handle::delete(shared, key, Purge::Hard);
        let (scheme, authority, origin) = key.origin();
        for target in invalidate::targets(scheme, authority, uri.path(), response) {
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (&*target, None),
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
}
