//! `Cache`: the service. Hits are decided and answered without a task or a future of their own.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request, StatusCode, header};
use http_body::Body as _;
use tower_service::Service;

use super::{
    bypass,
    fetch::{self, Fetch},
    key::Key,
    object::Object,
    respond,
    shared::Shared,
    store::{Found, Lookup},
};
use crate::{
    Body, HttpService, Response,
    body::HttpBody,
    error::BoxError,
    semantics::{
        cache::{
            Reuse,
            select::needs_origin,
            status::{CacheStatus, Forwarded},
        },
        problem::{self, Format},
    },
};

/// A shared cache (RFC 9111) in front of a service. See the [module](super).
///
/// Always ready. The readiness of the inner service is awaited when a request is forwarded.
#[derive(Debug, Clone)]
pub struct Cache<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Cache<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }
}

impl<S, B> Service<Request<B>> for Cache<S>
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: HttpBody,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        let request = request.map(Body::new);
        let Some(key) = handled_key(&self.shared, &request) else {
            self.shared.counters.bypassed.add();
            let (shared, inner) = (self.shared.clone(), self.inner.clone());
            return ResponseFuture::boxed(bypass::bypass(shared, inner, request));
        };
        match self.shared.store.get(&key, request.headers()) {
            Lookup::Ready(found) => match decide(&self.shared, request, &key, found) {
                Decision::Answer(response) => ResponseFuture::ready(response),
                Decision::Refresh(response, fetch) => {
                    fetch::refresh(&self.shared, &self.inner, *fetch);
                    ResponseFuture::ready(response)
                }
                Decision::Forward(fetch) => {
                    let (shared, inner) = (self.shared.clone(), self.inner.clone());
                    ResponseFuture::boxed(fetch::fetch(shared, inner, *fetch))
                }
            },
            Lookup::Pending(found) => {
                let (shared, inner) = (self.shared.clone(), self.inner.clone());
                ResponseFuture::boxed(async move {
                    let found = found.await;
                    match decide(&shared, request, &key, found) {
                        Decision::Answer(response) => Ok(*response),
                        Decision::Refresh(response, fetch) => {
                            fetch::refresh(&shared, &inner, *fetch);
                            Ok(*response)
                        }
                        Decision::Forward(fetch) => fetch::fetch(shared, inner, *fetch).await,
                    }
                })
            }
        }
    }
}

/// How a request is handled.
enum Decision {
    /// It is answered with a stored response, or with an error.
    Answer(Box<Response>),
    /// It is answered with a stored response, which is refreshed in the background.
    Refresh(Box<Response>, Box<Fetch>),
    Forward(Box<Fetch>),
}

/// Returns the key of a request that the cache handles: a GET or HEAD without content and without preconditions that only
/// the origin can evaluate, with one host and a path that has a normal form.
///
/// A request with content is forwarded, since a hit would leave its content unread on the connection.
fn handled_key(shared: &Shared, request: &Request<Body>) -> Option<Key> {
    let is_handled = matches!(*request.method(), Method::GET | Method::HEAD)
        && request.body().is_end_stream()
        && !request.headers().contains_key(header::UPGRADE)
        && !needs_origin(request.headers())
        && !shared.options.bypass_if.as_ref().is_some_and(|bypasses| bypasses(request));
    if is_handled { Key::of(request, &shared.options.query) } else { None }
}

/// Decides how to handle a request, given the stored response.
fn decide(shared: &Arc<Shared>, request: Request<Body>, key: &Key, found: Found) -> Decision {
    let control = shared.control(request.headers());
    let Found { object, has_others } = shared.marks.apply(key, found);
    let Some(object) = object else {
        if control.only_if_cached {
            return Decision::Answer(Box::new(not_cached(&request)));
        }
        let reason = if has_others { Forwarded::VaryMiss } else { Forwarded::UriMiss };
        return Decision::Forward(Box::new(Fetch::new(request, key, None, reason)));
    };
    let context = shared.context(&request);
    let now = context.now;
    let reuse = object.freshness.reuse(&control, now);
    let answer = |object: &Object| Box::new(respond::of_hit(shared, context, object));
    match reuse {
        Reuse::Fresh => {
            shared.counters.hits.add();
            let response = answer(&object);
            if refreshes_early(shared, &object, now) {
                let fetch = Fetch::new(request, key, Some(object.clone()), Forwarded::Stale);
                return Decision::Refresh(response, Box::new(fetch));
            }
            Decision::Answer(response)
        }
        Reuse::Stale => {
            shared.counters.stale_hits.add();
            Decision::Answer(answer(&object))
        }
        Reuse::StaleWhileRevalidate => {
            shared.counters.stale_hits.add();
            let response = answer(&object);
            let fetch = Fetch::new(request, key, Some(object.clone()), Forwarded::Stale);
            Decision::Refresh(response, Box::new(fetch))
        }
        Reuse::Validate if control.only_if_cached => {
            Decision::Answer(Box::new(not_cached(&request)))
        }
        Reuse::Validate => {
            let is_fresh = !object.freshness.remaining(now).is_zero();
            let reason = if is_fresh { Forwarded::Request } else { Forwarded::Stale };
            let is_overloaded = shared.options.stale_while.as_ref().is_some_and(|f| f());
            if reason == Forwarded::Stale
                && is_overloaded
                && object.freshness.is_usable_for(shared.options.stale_if_unreachable, now)
            {
                shared.counters.stale_hits.add();
                let response = answer(&object);
                let fetch = Fetch::new(request, key, Some(object.clone()), reason);
                return Decision::Refresh(response, Box::new(fetch));
            }
            Decision::Forward(Box::new(Fetch::new(request, key, Some(object.clone()), reason)))
        }
    }
}

/// Decides whether a request refreshes a fresh response before it expires.
fn refreshes_early(shared: &Shared, object: &Object, now: Duration) -> bool {
    let (freshness, beta) = (&object.freshness, shared.options.early_refresh);
    // The second comparison spares most hits a random number.
    beta > 0.0
        && freshness.remaining(now) < object.cost.mul_f64(beta * MAX_LEAD_TIME)
        && freshness.refreshes_early(object.cost, beta, shared.random(), now)
}

/// The maximum time between an early refresh and the expiry, in fetch times: the probability of an earlier one is e^-32.
const MAX_LEAD_TIME: f64 = 32.0;

/// Returns the `Cache-Status` of a stored response.
pub(super) fn hit_status(object: &Object, now: Duration) -> CacheStatus {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let (left, stale) = (object.freshness.remaining(now), object.freshness.staleness(now));
    let ttl = if left.is_zero() { -seconds(stale) } else { seconds(left) };
    CacheStatus { ttl: Some(ttl), ..CacheStatus::HIT }
}

/// Returns the 504 that `only-if-cached` requires (RFC 9111 section 5.2.1.7). Without `Cache-Status`, which is for
/// responses of the origin and those that are based on a stored one (RFC 9211 section 2).
fn not_cached(request: &Request<Body>) -> Response {
    problem::response(StatusCode::GATEWAY_TIMEOUT, None, Format::of(request.headers()))
}

/// The future of [`Cache`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(State);

type Boxed = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

enum State {
    Ready(Option<Box<Response>>),
    Boxed(Boxed),
}

impl ResponseFuture {
    fn ready(response: Box<Response>) -> Self {
        Self(State::Ready(Some(response)))
    }

    fn boxed(future: impl Future<Output = Result<Response, BoxError>> + Send + 'static) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(response) => {
                let response = response.take().expect("not polled after completion");
                Poll::Ready(Ok(*response))
            }
            State::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
