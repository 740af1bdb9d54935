//! Requests that bypass the cache. Unsafe ones invalidate stored responses.

use std::sync::Arc;

use http::{HeaderMap, Method, Request};

use super::{
    handle,
    key::{self, Key},
    shared::Shared,
    store::Purge,
};
use crate::{
    Body, HttpService, Response,
    error::BoxError,
    semantics::cache::{
        groups, invalidate,
        status::{CacheStatus, Forwarded},
    },
};

/// Forwards a request unchanged.
pub(super) async fn bypass<S>(
    shared: Arc<Shared>,
    inner: S,
    request: Request<Body>,
) -> Result<Response, BoxError>
where
    S: HttpService,
{
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let reason = if is_read { Forwarded::Bypass } else { Forwarded::Method };
    let is_unsafe = invalidate::is_unsafe(request.method());
    let target = if is_unsafe { Target::of(&shared, &request) } else { None };
    let mut response = super::call(inner, request).await?;
    if let Some(target) = target
        && invalidate::invalidates(response.status())
    {
        target.invalidate(&shared, response.headers());
    }
    shared.add_status(&mut response, CacheStatus::forwarded(reason));
    Ok(response)
}

/// The target of an unsafe request.
struct Target {
    key: Key,
    scheme: String,
    authority: String,
    path: String,
}

impl Target {
    /// Returns the target; `None` if it has no key.
    fn of(shared: &Shared, request: &Request<Body>) -> Option<Self> {
        Some(Self {
            key: Key::of(request, &shared.options.query)?,
            scheme: key::scheme_of(request).to_string(),
            authority: key::authority_of(request)?.to_owned(),
            path: key::uri_of(request).path().to_owned(),
        })
    }

    /// Invalidates stored responses (RFC 9111 section 4.4 and RFC 9875 section 3).
    fn invalidate(&self, shared: &Arc<Shared>, response: &HeaderMap) {
        let Self { key, scheme, authority, path } = self;
        handle::delete(shared, key, Purge::Hard);
        for target in invalidate::targets(scheme, authority, path, response) {
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
        if !groups.is_empty()
            && let Some(root) = Key::new(scheme, authority, "/", None)
        {
            let origin = root.as_str().trim_end_matches('/');
            handle::invalidate_groups(shared, &groups, origin, Purge::Hard);
        }
    }
}
