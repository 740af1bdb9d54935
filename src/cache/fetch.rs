//! Requests without a usable stored response: they follow the fetch of another request, or are forwarded.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, header, request};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::{
    aliases,
    fill::Fill,
    flight::{Follower, Phase, Role},
    hints,
    key::Key,
    leader,
    object::Object,
    respond::{self, RequestContext},
    shared::Shared,
};
use crate::{
    Body, HttpService, Response,
    error::{BoxError, Chain},
    peer::Deadline,
    semantics::{
        cache::{
            NoVarySearch, Reuse,
            status::{CacheStatus, Forwarded},
            update::{self, HeadUpdate},
        },
        conditional,
    },
};

/// A request to be forwarded, and the stale response to it.
pub(super) struct Fetch {
    /// The request, which has no content.
    pub(super) parts: request::Parts,
    pub(super) key: Key,
    pub(super) stale: Option<Arc<Object>>,
    pub(super) reason: Forwarded,
}

impl Fetch {
    pub(super) fn new(
        request: Request<Body>,
        key: &Key,
        stale: Option<Arc<Object>>,
        reason: Forwarded,
    ) -> Self {
        Self { parts: request.into_parts().0, key: key.clone(), stale, reason }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    pub(super) fn context(&self, shared: &Shared) -> RequestContext<'_> {
        RequestContext {
            method: &self.parts.method,
            headers: &self.parts.headers,
            now: shared.clock.now(),
            date: shared.clock.date(),
        }
    }

    /// Returns the request as the client sent it.
    fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, Body::empty())
    }

    /// Repeats the lookup of the stored response.
    async fn reload(&mut self, shared: &Shared) {
        self.stale = shared.lookup(&self.key, self.headers()).await.object;
    }
}

/// Forwards a request, or follows the fetch of another one.
pub(super) async fn fetch<S>(
    shared: Arc<Shared>,
    inner: S,
    fetch: Fetch,
) -> Result<Response, BoxError>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if shared.options.no_vary_search
        && fetch.stale.is_none()
        && let Some(response) = stored_for_another_query(&shared, &fetch).await
    {
        return Ok(response);
    }
    if shared.options.early_hints
        && let Some(stale) = &fetch.stale
    {
        hints::send(&fetch.parts, &stale.headers);
    }
    if fetch.parts.method == Method::HEAD {
        return fetch_head(shared, inner, fetch).await;
    }
    let headers = fetch.headers();
    let is_part = headers.contains_key(header::RANGE) && !shared.options.fills_ranges;
    if is_part && fetch.stale.is_none() {
        shared.counters.misses.add();
        return forward(&shared, inner, fetch).await;
    }
    fetch_whole(shared, inner, fetch).await
}

/// Fetches the whole response, or follows the fetch of another request.
async fn fetch_whole<S>(
    shared: Arc<Shared>,
    inner: S,
    mut fetch: Fetch,
) -> Result<Response, BoxError>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let headers = fetch.headers();
    // The response to a request with credentials, or with `no-store`, is seldom usable for other requests.
    let mut is_joinable = shared.options.collapses
        && !headers.contains_key(header::AUTHORIZATION)
        && !shared.control(headers).no_store
        && fetch.reason != Forwarded::Request;
    let deadline = Instant::now().checked_add(shared.options.fill_timeout);
    loop {
        let is_hit_for_miss = shared.is_hit_for_miss(&fetch.key, shared.clock.now());
        if is_hit_for_miss && fetch.stale.is_none() && conditional::is_conditional(fetch.headers())
        {
            // The origin probably answers with a 304, which cannot be stored without a stored response.
            return forward(&shared, inner, fetch).await;
        }
        let joins = is_joinable && !is_hit_for_miss;
        let follower =
            match shared.flights.enter(&fetch.key, fetch.headers(), joins, &shared.options) {
                Role::Lead(leader) => {
                    // Another fetch may have ended since the lookup.
                    if let Some(response) = stored_since_lookup(&shared, &mut fetch).await {
                        leader.release();
                        return Ok(response);
                    }
                    shared.counters.misses.add();
                    return leader::fetch(shared, inner, &fetch, leader).await;
                }
                Role::Uncollapsed => {
                    shared.counters.uncollapsed.add();
                    return forward(&shared, inner, fetch).await;
                }
                Role::Follow(follower) => follower,
            };
        match follow(&shared, &fetch, follower, deadline).await {
            Ok(Some(response)) => return Ok(response),
            Ok(None) => {}
            Err(_elapsed) => is_joinable = false,
        }
        if let Some(response) = stored_since_lookup(&shared, &mut fetch).await {
            return Ok(response);
        }
    }
}

/// Waits for the fetch of another request. Returns its response, or `None` if that cannot answer this request.
///
/// # Errors
/// If the head of the response has not arrived by the deadline.
async fn follow(
    shared: &Shared,
    fetch: &Fetch,
    follower: Follower,
    deadline: Option<Instant>,
) -> Result<Option<Response>, Elapsed> {
    let phase = match deadline {
        Some(deadline) => timeout_at(deadline, follower.wait()).await?,
        None => follower.wait().await,
    };
    let response = match phase {
        Phase::Filling(fill) => follow_fill(shared, fetch, &fill),
        Phase::Ready(object) if object.matches(fetch.headers()) => {
            Some(respond::of_object(fetch.context(shared), &object))
        }
        Phase::Ready(_) | Phase::Waiting | Phase::Released => None,
    };
    Ok(response.map(|mut response| {
        shared.counters.collapsed.add();
        let status = CacheStatus { collapsed: true, ..CacheStatus::forwarded(fetch.reason) };
        shared.add_status(&mut response, status);
        response
    }))
}

/// Refreshes the stored response in the background, unless a refresh is in progress or there are too many of them.
pub(super) fn refresh<S>(shared: &Arc<Shared>, inner: &S, mut fetch: Fetch)
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    if shared.flights.has(&fetch.key, fetch.headers()) {
        return;
    }
    let Some(permit) = shared.try_begin_refresh() else { return };
    // The client has its response, so its deadline does not apply.
    fetch.parts.extensions.remove::<Deadline>();
    fetch.parts.method = Method::GET;
    let entry = shared.flights.enter(&fetch.key, fetch.headers(), true, &shared.options);
    let Role::Lead(leader) = entry else { return };
    shared.counters.refreshes.add();
    let (background, inner) = (shared.clone(), inner.clone());
    shared.spawn(async move {
        if let Err(error) = leader::fetch(background, inner, &fetch, leader).await {
            let error = tracing::field::display(Chain(&*error));
            tracing::debug!(key = %fetch.key, error, "cannot refresh a stored response");
        }
        drop(permit);
    });
}

/// Repeats the lookup, and returns the response if it is fresh. Otherwise it becomes the stale response of the request.
async fn stored_since_lookup(shared: &Shared, fetch: &mut Fetch) -> Option<Response> {
    fetch.reload(shared).await;
    fresh_response(shared, fetch, fetch.stale.as_ref()?)
}

/// Returns the stored response to an equivalent query (`No-Vary-Search`), if it is fresh.
async fn stored_for_another_query(shared: &Shared, fetch: &Fetch) -> Option<Response> {
    let key = shared.aliases.find(&fetch.key)?;
    let object = shared.lookup(&key, fetch.headers()).await.object?;
    let rule = NoVarySearch::of(&object.headers)?;
    let is_same = aliases::is_same(&rule, &key, &fetch.key);
    is_same.then(|| fresh_response(shared, fetch, &object)).flatten()
}

/// Returns the response of a stored object, if it is fresh.
fn fresh_response(shared: &Shared, fetch: &Fetch, object: &Object) -> Option<Response> {
    let context = fetch.context(shared);
    let control = shared.control(fetch.headers());
    if object.freshness.reuse(&control, context.now) != Reuse::Fresh {
        return None;
    }
    shared.counters.hits.add();
    Some(respond::of_hit(shared, context, object))
}

/// Returns the response of another request's fetch, if the request selects this variant and the beginning of the content is
/// still in memory.
fn follow_fill(shared: &Shared, fetch: &Fetch, fill: &Arc<Fill>) -> Option<Response> {
    if !fill.head.matches(fetch.headers()) {
        return None;
    }
    let context = fetch.context(shared);
    respond::of_fill(context, fill, respond::shared_headers(fill, context.now))
}

/// Forwards a request unchanged, and does not store its response.
async fn forward<S>(shared: &Shared, inner: S, fetch: Fetch) -> Result<Response, BoxError>
where
    S: HttpService,
{
    let reason = fetch.reason;
    let mut response = super::call(inner, fetch.into_request()).await?;
    shared.add_status(&mut response, CacheStatus::forwarded(reason));
    Ok(response)
}

/// Forwards a HEAD request. Its response updates the stored response to GET, or makes it stale (RFC 9111 section 4.3.5).
async fn fetch_head<S>(shared: Arc<Shared>, inner: S, fetch: Fetch) -> Result<Response, BoxError>
where
    S: HttpService,
{
    shared.counters.misses.add();
    let (key, stale, requested) = (fetch.key.clone(), fetch.stale.clone(), shared.clock.now());
    let response = forward(&shared, inner, fetch).await?;
    let Some(stale) = stale.filter(|_| response.status() == http::StatusCode::OK) else {
        return Ok(response);
    };
    let replacement =
        match update::head_update(&stale.headers, stale.content.len(), response.headers()) {
            HeadUpdate::Update => leader::updated(&shared, &stale, response.headers(), requested),
            HeadUpdate::Expire => {
                let mut expired = Object::clone(&stale);
                expired.freshness.expire(shared.clock.now());
                expired
            }
        };
    let replacement = Arc::new(replacement);
    shared.flights.write(|| shared.store.replace(&key, &stale, &replacement));
    Ok(response)
}
