//! `Cache`: the service. Hits are decided and answered without a task or a future of their own.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use tower_service::Service;

use super::{
    bypass,
    fetch::{self, Fetch},
    key::Key,
    object::Object,
    request_fields::RequestFields,
    respond,
    shared::Shared,
    spelling,
    store::{Found, Lookup},
};
use crate::{
    Body, HttpService, Response,
    body::HttpBody,
    conn::head_pool,
    error::BoxError,
    semantics::{
        cache::{
            Reuse,
            status::{CacheStatus, Forwarded},
        },
        problem::{self, Format},
    },
};

/// A shared cache (RFC 9111) in front of a service. See the [module](super).
///
/// Always ready. The readiness of the inner service is awaited when a request is forwarded.
///
/// [`call`](Service::call) polls the inner service for its readiness, and calls it at once if it is ready. If it is not,
/// the future takes it and waits for it, and leaves a clone in its place. `call` must therefore be called within the runtime
/// that the inner service needs, for example for its timers and tasks. A future that is dropped without having been polled may
/// have sent its request already.
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
        let Self { shared, inner } = self;
        let Some((key, fields)) = handled_key(shared, &request) else {
            shared.counters.bypassed.add();
            return ResponseFuture::boxed(bypass::bypass(shared, inner, request));
        };
        let (parts, _) = request.into_parts();
        let fetch = Fetch::new(shared, parts, fields, key);
        match shared.get(&fetch.key, fetch.headers()) {
            Lookup::Ready(found) => answer_or_forward(shared, inner, fetch, found),
            Lookup::Pending(found) => {
                let (shared, mut inner) = (shared.clone(), inner.clone());
                ResponseFuture::boxed(async move {
                    let found = found.await;
                    answer_or_forward(&shared, &mut inner, fetch, found).await
                })
            }
        }
    }
}

/// Answers a request with a stored response, or forwards it.
fn answer_or_forward<S>(
    shared: &Arc<Shared>,
    inner: &mut S,
    mut fetch: Fetch,
    found: Found,
) -> ResponseFuture
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    fetch.now = shared.clock.now();
    match decide(shared, &fetch, found) {
        Decision::Answer(response) => {
            head_pool::release(fetch.parts);
            ResponseFuture::ready(response)
        }
        Decision::Refresh(response, stale, reason) => {
            (fetch.stale, fetch.reason) = (Some(stale), reason);
            spelling::apply(&fetch.key, &mut fetch.parts);
            fetch::refresh(shared, inner, fetch);
            ResponseFuture::ready(response)
        }
        Decision::Forward(stale, reason) => {
            (fetch.stale, fetch.reason) = (stale, reason);
            spelling::apply(&fetch.key, &mut fetch.parts);
            fetch::fetch(shared, inner, fetch)
        }
    }
}

/// How a request is handled.
enum Decision {
    /// It is answered with a stored response, or with an error.
    Answer(Response),
    /// It is answered with a stored response, which is refreshed in the background.
    Refresh(Response, Arc<Object>, Forwarded),
    /// It is forwarded, with this stale response.
    Forward(Option<Arc<Object>>, Forwarded),
}

/// Returns the key of a request that the cache handles: a GET or HEAD without content and without preconditions that only
/// the origin can evaluate, with one host and a path that has a normal form.
///
/// A request with content is forwarded, since a hit would leave its content unread on the connection.
fn handled_key(shared: &Shared, request: &Request<Body>) -> Option<(Key, RequestFields)> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) || !request.body().is_end_stream() {
        return None;
    }
    let fields = RequestFields::of(request.headers());
    let bypasses = fields.has(RequestFields::UPGRADE | RequestFields::CONDITION_OF_ORIGIN)
        || shared.options.bypass_if.as_ref().is_some_and(|bypasses| bypasses(request));
    if bypasses { None } else { Some((Key::of(request, &shared.options.query)?, fields)) }
}

/// Decides how to handle a request, given the stored response.
fn decide(shared: &Shared, fetch: &Fetch, found: Found) -> Decision {
    let (context, control) = (fetch.context(), fetch.control);
    let Found { object, has_others } = found;
    let Some(object) = object else {
        if control.only_if_cached {
            return Decision::Answer(not_cached(context.headers));
        }
        let reason = if has_others { Forwarded::VaryMiss } else { Forwarded::UriMiss };
        return Decision::Forward(None, reason);
    };
    let now = context.now;
    let answer = |object: &Object| respond::of_hit(shared, context, object);
    match object.freshness.reuse(&control, now) {
        Reuse::Fresh => {
            shared.counters.hits.add();
            let response = answer(&object);
            if refreshes_early(shared, &object, now) {
                return Decision::Refresh(response, object, Forwarded::Stale);
            }
            Decision::Answer(response)
        }
        Reuse::Stale => {
            shared.counters.stale_hits.add();
            Decision::Answer(answer(&object))
        }
        Reuse::StaleWhileRevalidate => {
            shared.counters.stale_hits.add();
            Decision::Refresh(answer(&object), object, Forwarded::Stale)
        }
        Reuse::Validate if control.only_if_cached => Decision::Answer(not_cached(context.headers)),
        Reuse::Validate => {
            let is_fresh = !object.freshness.remaining(now).is_zero();
            let reason = if is_fresh { Forwarded::Request } else { Forwarded::Stale };
            let is_overloaded = shared.options.stale_while.as_ref().is_some_and(|f| f());
            if reason == Forwarded::Stale
                && is_overloaded
                && object.freshness.is_usable_for(shared.options.stale_if_unreachable, now)
            {
                shared.counters.stale_hits.add();
                return Decision::Refresh(answer(&object), object, reason);
            }
            Decision::Forward(Some(object), reason)
        }
    }
}

/// Decides whether a request refreshes a fresh response before it expires.
fn refreshes_early(shared: &Shared, object: &Object, now: Duration) -> bool {
    let (freshness, beta) = (&object.freshness, shared.options.early_refresh);
    // The second comparison spares most hits a random number.
    beta > 0.0
        && freshness.remaining(now).as_secs_f64() < object.cost.as_secs_f64() * beta * MAX_LEAD_TIME
        && freshness.refreshes_early(object.cost, beta, shared.random(), now)
}

/// The maximum time between an early refresh and the expiry, in fetch times: the probability of an earlier one is e^-32.
const MAX_LEAD_TIME: f64 = 32.0;

/// Returns the `Cache-Status` of a stored response of this age.
pub(super) fn hit_status(object: &Object, age: Duration) -> CacheStatus {
    CacheStatus { ttl: Some(object.freshness.ttl(age)), ..CacheStatus::HIT }
}

/// Returns the 504 that `only-if-cached` requires (RFC 9111 section 5.2.1.7). Without `Cache-Status`, which is for
/// responses of the origin and those that are based on a stored one (RFC 9211 section 2).
fn not_cached(request: &HeaderMap) -> Response {
    problem::response(StatusCode::GATEWAY_TIMEOUT, None, Format::of(&Method::GET, request))
}

/// The future of [`Cache`].
///
/// A hit, which is ready, is answered without another allocation. Other futures are boxed, so that hits do not move their size.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture(State);

type Boxed = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each hit")]
enum State {
    Ready(Option<Response>),
    Boxed(Boxed),
}

impl ResponseFuture {
    fn ready(response: Response) -> Self {
        Self(State::Ready(Some(response)))
    }

    pub(super) fn boxed(
        future: impl Future<Output = Result<Response, BoxError>> + Send + 'static,
    ) -> Self {
        Self(State::Boxed(Box::pin(future)))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            State::Ready(response) => {
                Poll::Ready(Ok(response.take().expect("not polled after completion")))
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
