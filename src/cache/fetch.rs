//! Requests without a usable stored response: they follow the fetch of another request, or are forwarded.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Request, request};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

use super::{
    aliases,
    fill::Fill,
    flight::{Follower, Phase, Role},
    forward::{Forward, Then},
    head_fetch::HeadFetch,
    hints,
    key::Key,
    leader::{self, Entry},
    object::Object,
    request_fields::RequestFields,
    respond::{self, RequestContext},
    service::ResponseFuture,
    shared::Shared,
};
use crate::{
    Body, HttpService, Response,
    error::{BoxError, Chain},
    peer::Deadline,
    semantics::cache::{
        NoVarySearch, RequestControl, ResponseControl, Reuse,
        status::{CacheStatus, Forwarded},
    },
};

/// A request to be forwarded, and the stale response to it.
pub(super) struct Fetch {
    /// The request, which has no content.
    pub(super) parts: request::Parts,
    pub(super) fields: RequestFields,
    /// The directives of the request that are obeyed.
    pub(super) control: RequestControl,
    pub(super) key: Key,
    pub(super) stale: Option<Arc<Object>>,
    pub(super) reason: Forwarded,
    /// The time after the lookup, or after the last wait.
    pub(super) now: Duration,
    /// The number of [changes](super::flight::Flights::changes) before the lookup.
    pub(super) changes: u64,
}

impl Fetch {
    /// Creates it before the lookup.
    pub(super) fn new(
        shared: &Shared,
        parts: request::Parts,
        fields: RequestFields,
        key: Key,
    ) -> Self {
        let control = shared.control(&parts.headers, fields);
        let (reason, changes) = (Forwarded::UriMiss, shared.flights.changes());
        Self { parts, fields, control, key, stale: None, reason, now: Duration::ZERO, changes }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(super) fn context(&self) -> RequestContext<'_> {
        let Self { parts, fields, now, .. } = self;
        RequestContext {
            method: &parts.method,
            headers: &parts.headers,
            fields: *fields,
            now: *now,
        }
    }

    /// Repeats the lookup of a key after a wait. Returns the stored response.
    async fn lookup(&mut self, shared: &Shared, key: Option<&Key>) -> Option<Arc<Object>> {
        let found = shared.lookup(key.unwrap_or(&self.key), self.headers()).await;
        self.now = shared.clock.now();
        found.object
    }

    /// Returns the request, which has the spelling of its key.
    fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, Body::empty())
    }

    /// Returns whether a response to the request may replace the stored one: without `no-store` (RFC 9111 section 5.2.1.5), and
    /// with credentials only if the stored response permits that (section 3.5). Any client can send either. Nor does a request
    /// with `only-if-cached`, which another cache closer to the origin answers with a 504 (section 5.2.1.7).
    fn may_refresh(&self) -> bool {
        let permits_credentials =
            |stale: &Arc<Object>| ResponseControl::of(&stale.headers).permits_credentials();
        !self.control.no_store
            && !self.control.only_if_cached
            && (!self.fields.has(RequestFields::AUTHORIZATION)
                || self.stale.as_ref().is_some_and(permits_credentials))
    }

    /// Returns whether the request may follow another one. The response to a request with credentials, or with `no-store`,
    /// is seldom usable for other requests.
    fn is_joinable(&self, shared: &Shared) -> bool {
        let collapses = |parts| shared.options.collapse_if.as_ref().is_none_or(|f| f(parts));
        shared.options.collapses
            && self.reason != Forwarded::Request
            && !self.control.no_store
            && !self.fields.has(RequestFields::AUTHORIZATION)
            && collapses(&self.parts)
    }
}

/// Forwards a request, or follows the fetch of another one.
pub(super) fn fetch<S>(shared: &Arc<Shared>, inner: &mut S, mut fetch: Fetch) -> ResponseFuture
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if shared.options.no_vary_search
        && fetch.stale.is_none()
        && let Some(other) = shared.aliases.find(&fetch.key)
    {
        let (shared, mut inner) = (shared.clone(), inner.clone());
        return ResponseFuture::boxed(async move {
            match stored_for_another_query(&shared, &mut fetch, &other).await {
                Some(response) => Ok(response),
                None => fetch_this_query(&shared, &mut inner, fetch).await,
            }
        });
    }
    fetch_this_query(shared, inner, fetch)
}

fn fetch_this_query<S>(shared: &Arc<Shared>, inner: &mut S, fetch: Fetch) -> ResponseFuture
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if shared.options.early_hints
        && let Some(stale) = &fetch.stale
    {
        hints::send(&fetch.parts, &stale.headers);
    }
    if fetch.parts.method == Method::HEAD {
        shared.counters.misses.add();
        return ResponseFuture::boxed(forward_head(shared, inner, fetch));
    }
    let is_part = fetch.fields.has(RequestFields::RANGE) && !shared.options.fills_ranges;
    if is_part && fetch.stale.is_none() {
        shared.counters.misses.add();
        return ResponseFuture::boxed(forward(shared, inner, fetch));
    }
    let is_joinable = fetch.is_joinable(shared);
    let role = enter(shared, &fetch, is_joinable);
    // If there was a change, the response may have been stored, or the stale one invalidated, since the lookup.
    let is_current = shared.flights.changes() == fetch.changes;
    let entry = match role {
        Role::Single(invalidations) if is_current => Entry::Late(invalidations),
        Role::Lead(leader) if is_current => Entry::Leader(leader),
        Role::Unstored => return ResponseFuture::boxed(forward(shared, inner, fetch)),
        role => {
            let (shared, inner) = (shared.clone(), inner.clone());
            return ResponseFuture::boxed(fetch_after_wait(
                shared,
                inner,
                fetch,
                role,
                is_joinable,
            ));
        }
    };
    ResponseFuture::boxed(forward_miss(shared, inner, fetch, entry))
}

/// Returns the role of a request for the whole response.
fn enter(shared: &Shared, fetch: &Fetch, is_joinable: bool) -> Role {
    let is_hit_for_miss = shared.is_hit_for_miss(&fetch.key, fetch.now);
    let is_conditional = fetch.fields.has(RequestFields::CONDITION);
    if is_hit_for_miss && fetch.stale.is_none() && is_conditional {
        // The origin probably answers with a 304, which cannot be stored without a stored response.
        return Role::Unstored;
    }
    if !is_joinable || is_hit_for_miss {
        return shared.flights.enter_single(&fetch.key);
    }
    let variant = shared.known_vary.variant(&fetch.key, fetch.headers());
    let role = shared.flights.enter(fetch, variant, &shared.options);
    if let Role::Unstored = role {
        shared.counters.uncollapsed.add();
    }
    role
}

/// Follows the fetch of another request, or becomes the leader after another lookup.
async fn fetch_after_wait<S>(
    shared: Arc<Shared>,
    mut inner: S,
    mut fetch: Fetch,
    mut role: Role,
    mut is_joinable: bool,
) -> Result<Response, BoxError>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let deadline = Instant::now().checked_add(shared.options.fill_timeout);
    loop {
        let entry = match role {
            Role::Unstored => return forward(&shared, &mut inner, fetch).await,
            Role::Single(invalidations) => Some(Entry::Late(invalidations)),
            Role::Lead(leader) => Some(Entry::Leader(leader)),
            Role::Follow(follower) => {
                match follow(&shared, &mut fetch, follower, deadline).await {
                    Ok(Some(response)) => return Ok(response),
                    Ok(None) => {}
                    Err(_elapsed) => is_joinable = false,
                }
                None
            }
        };
        if let Some(response) = stored_since_lookup(&shared, &mut fetch).await {
            return Ok(response);
        }
        if let Some(entry) = entry {
            return forward_miss(&shared, &mut inner, fetch, entry).await;
        }
        role = enter(&shared, &fetch, is_joinable);
    }
}

/// Waits for the fetch of another request. Returns its response, or `None` if that cannot answer this request.
///
/// # Errors
/// If the head of the response has not arrived by the deadline.
async fn follow(
    shared: &Shared,
    fetch: &mut Fetch,
    follower: Follower,
    deadline: Option<Instant>,
) -> Result<Option<Response>, Elapsed> {
    let phase = match deadline {
        Some(deadline) => timeout_at(deadline, follower.wait()).await?,
        None => follower.wait().await,
    };
    fetch.now = shared.clock.now();
    let response = match phase {
        Phase::Filling(fill) => follow_fill(fetch, &fill),
        Phase::Ready(object) if object.answers_waiting(fetch.headers()) => {
            Some(respond::of_object(fetch.context(), &object))
        }
        Phase::Ready(_) | Phase::Waiting | Phase::Released => None,
    };
    Ok(response.map(|mut response| {
        shared.counters.collapsed.add();
        let status = CacheStatus { collapsed: true, ..CacheStatus::forwarded(fetch.reason) };
        shared.add_status(response.headers_mut(), status);
        response
    }))
}

/// Refreshes the stored response in the background, unless a refresh is in progress, there are too many of them, or the
/// response to this request could not be stored.
pub(super) fn refresh<S>(shared: &Arc<Shared>, inner: &S, mut fetch: Fetch)
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if !fetch.may_refresh() {
        return;
    }
    let variant = shared.known_vary.variant(&fetch.key, fetch.headers());
    if shared.flights.has(&fetch, variant.as_ref()) {
        return;
    }
    let Some(permit) = shared.try_begin_refresh() else { return };
    // The client has its response, so its deadline does not apply. The refresh has a timeout of its own.
    fetch.parts.extensions.remove::<Deadline>();
    fetch.parts.method = Method::GET;
    let entry = shared.flights.enter(&fetch, variant, &shared.options);
    let Role::Lead(leader) = entry else { return };
    shared.counters.refreshes.add();
    let key = fetch.key.clone();
    let is_current = shared.flights.changes() == fetch.changes;
    let (cache, mut inner) = (shared.clone(), inner.clone());
    shared.spawn(async move {
        // A response that was invalidated since the lookup must not be validated.
        if !is_current && !is_still_stored(&cache, &mut fetch).await {
            return;
        }
        let forward = leader::forward(&cache, &mut inner, fetch, Entry::Leader(leader));
        match timeout(cache.options.refresh_timeout, forward).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = tracing::field::display(Chain(&*error));
                tracing::debug!(%key, error, "cannot refresh a stored response");
            }
            Err(_elapsed) => tracing::debug!(%key, "timeout of the refresh of a stored response"),
        }
        drop(permit);
    });
}

/// Repeats the lookup. Returns whether the stale response is still stored.
async fn is_still_stored(shared: &Shared, fetch: &mut Fetch) -> bool {
    let revision = |object: &Option<Arc<Object>>| object.as_ref().map(|object| object.revision);
    let before = revision(&fetch.stale);
    fetch.stale = fetch.lookup(shared, None).await;
    fetch.stale.is_some() && revision(&fetch.stale) == before
}

/// Repeats the lookup, and returns the response if it is fresh. Otherwise it becomes the stale response of the request.
async fn stored_since_lookup(shared: &Shared, fetch: &mut Fetch) -> Option<Response> {
    fetch.stale = fetch.lookup(shared, None).await;
    fresh_response(shared, fetch, fetch.stale.as_ref()?)
}

/// Returns the stored response to an equivalent query (`No-Vary-Search`), if it is fresh.
async fn stored_for_another_query(
    shared: &Shared,
    fetch: &mut Fetch,
    other: &Key,
) -> Option<Response> {
    let object = fetch.lookup(shared, Some(other)).await?;
    let rule = NoVarySearch::of(&object.headers)?;
    let is_same = aliases::is_same(&rule, other, &fetch.key);
    is_same.then(|| fresh_response(shared, fetch, &object)).flatten()
}

/// Returns the response of a stored object, if it is fresh.
fn fresh_response(shared: &Shared, fetch: &Fetch, object: &Object) -> Option<Response> {
    let context = fetch.context();
    if object.freshness.reuse(&fetch.control, context.now) != Reuse::Fresh {
        return None;
    }
    shared.counters.hits.add();
    Some(respond::of_hit(shared, context, object))
}

/// Returns the response of another request's fetch, if it may answer this one and the beginning of the content is still in
/// memory.
fn follow_fill(fetch: &Fetch, fill: &Arc<Fill>) -> Option<Response> {
    if !fill.head.answers_waiting(fetch.headers()) {
        return None;
    }
    let context = fetch.context();
    respond::of_fill(context, fill, respond::shared_headers(fill, context.now))
}

/// Forwards a request whose response may be stored.
fn forward_miss<S>(shared: &Arc<Shared>, inner: &mut S, fetch: Fetch, entry: Entry) -> Forward<S>
where
    S: HttpService + Clone,
{
    shared.counters.misses.add();
    leader::forward(shared, inner, fetch, entry)
}

/// Forwards a request, in the spelling of its key, and does not store its response.
fn forward<S>(shared: &Arc<Shared>, inner: &mut S, fetch: Fetch) -> Forward<S>
where
    S: HttpService + Clone,
{
    let then = Then::Pass(fetch.reason);
    Forward::new(shared, inner, fetch.into_request(), then)
}

/// Forwards a HEAD request. Its response updates the stored response to GET, makes it stale or removes it (RFC 9111 section
/// 4.3.5), unless it may be for this client alone or the request has `no-store` (section 5.2.1.5).
fn forward_head<S>(shared: &Arc<Shared>, inner: &mut S, mut fetch: Fetch) -> Forward<S>
where
    S: HttpService + Clone,
{
    let is_for_store = !fetch.control.no_store && !fetch.fields.has(RequestFields::AUTHORIZATION);
    let Some(stale) = fetch.stale.take().filter(|_| is_for_store) else {
        return forward(shared, inner, fetch);
    };
    let (key, reason, requested) = (fetch.key.clone(), fetch.reason, fetch.now);
    let invalidations = shared.flights.invalidations(&key);
    let update = HeadFetch { key, stale, reason, requested, invalidations };
    let then = Then::UpdateHead(Box::new(update));
    Forward::new(shared, inner, fetch.into_request(), then)
}
