//! `Balance`: distributes requests over endpoints.

mod builder;
mod live;
mod set;
mod view;
mod waiting;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, header::SET_COOKIE};
use pin_project::pin_project;
use tokio::sync::watch;
use tower_service::Service;

use self::{set::Set, view::View, waiting::WaitFuture};
use super::{
    endpoint::{self, Endpoint, EndpointHandle},
    error::{AttemptError, AttemptErrorKind, NoEndpoint},
    group::Group,
    history::History,
};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::Delivery,
    error::{BoxError, Error, Kind},
    net::clock,
    policy::pick::{Pick, RequestHead, RoundRobin},
};

pub use builder::{BalanceBuilder, EmptySet};

/// Maximum number of picks for one attempt: 32. A picked endpoint can become unavailable before the request reaches
/// it: at its limit, without a free probe, or removed from the set.
const MAX_PICKS: usize = 32;

/// Sends each request to one of several endpoints, picked by a policy.
///
/// A request that [`Retry`](super::Retry) sends again goes to an endpoint where it was not yet tried. If none of these
/// is available, it goes once more to one of which only an idle connection was tried. After that the error has the
/// kind [`AttemptErrorKind::NoEndpoint`].
///
/// The set of endpoints can be changed at any time: [`insert`](Self::insert), [`remove`](Self::remove),
/// [`replace`](Self::replace), [`follow`](Self::follow). A request uses one snapshot of the set, which it reads
/// without a lock. The requests of a removed endpoint continue. Weights, policy, limits and health options can be
/// changed as well, and [`status`](Self::status) shows them.
///
/// While all untried endpoints are ejected, the policy sees them as available: an attempt that will probably fail is
/// better than a refusal. An endpoint that an operator has [taken out](super::EndpointHandle::eject) never gets a
/// request.
///
/// Always ready: if all endpoints are at their limits, the request waits in a bounded [queue](BalanceBuilder::queue)
/// after `call`, if there is one. Cheap to clone: clones share everything.
///
/// A pool of worker threads, a remote server and a closure as endpoints:
///
/// ```no_run
/// use std::convert::Infallible;
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response, worker};
/// use vestibule::policy::pick::LeastOutstanding;
/// use vestibule::upstream::{Balance, Endpoint, ErasedService, Remote};
///
/// let threads = worker::threads(4, || worker::blocking(|_| Response::new("from a thread"))).start()?;
/// let remote = Remote::new("10.0.0.2:3000")?;
/// let closure = service_fn(|_: Request| async {
///     Ok::<_, Infallible>(Response::new(Body::from("from here")))
/// });
/// let endpoints = [
///     Endpoint::new("threads", ErasedService::new(threads)).weight(4),
///     Endpoint::new("remote", ErasedService::new(remote)),
///     Endpoint::new("closure", ErasedService::new(closure)),
/// ];
/// let balance = Balance::new(endpoints, LeastOutstanding::new());
/// assert!(balance.set_weight("remote", 2));
/// # drop(balance);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Balance<S, P = RoundRobin>(Arc<Shared<S, P>>);

struct Shared<S, P> {
    set: ArcSwap<Set<S, P>>,
    /// Held while the set is being changed.
    change: Mutex<()>,
    group: Arc<Group>,
    waits_if_empty: AtomicBool,
    /// Closed when the balancer is dropped, to end its tasks.
    open: watch::Sender<()>,
}

impl<S, P: Pick> Balance<S, P> {
    /// Creates a balancer. Without endpoints, every request fails.
    ///
    /// # Panics
    /// If two endpoints have the same key.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint<S>>, policy: P) -> Self {
        BalanceBuilder::new().build(endpoints, policy)
    }
}

impl<S> Balance<S> {
    /// Creates a balancer that uses the endpoints in turn.
    ///
    /// # Panics
    /// If two endpoints have the same key.
    pub fn round_robin(endpoints: impl IntoIterator<Item = Endpoint<S>>) -> Self {
        Self::new(endpoints, RoundRobin::new())
    }
}

impl<S, P> Balance<S, P> {
    /// Returns a weak reference for a task that must not keep the balancer alive, and a receiver that is closed when
    /// the balancer is dropped.
    pub(super) fn downgrade(&self) -> (WeakBalance<S, P>, watch::Receiver<()>) {
        (WeakBalance(Arc::downgrade(&self.0)), self.0.open.subscribe())
    }
}

/// A weak reference to a balancer.
pub(super) struct WeakBalance<S, P>(Weak<Shared<S, P>>);

impl<S, P> WeakBalance<S, P> {
    pub(super) fn upgrade(&self) -> Option<Balance<S, P>> {
        self.0.upgrade().map(Balance)
    }
}

/// The reason why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// There is no endpoint, or an operator has taken all out.
    Empty,
    /// All endpoints that could take the request are at their limits.
    NoRoom,
    /// The request was tried at all endpoints.
    Exhausted,
}

/// A request that was sent to an endpoint.
struct Sent<F> {
    future: F,
    /// A `Set-Cookie` for the response.
    cookie: Option<Box<HeaderValue>>,
}

type SentTo<S, F> = Sent<endpoint::ResponseFuture<S, F>>;

impl<S: HttpService + Clone, P: Pick> Shared<S, P> {
    /// Sends the request to the endpoint that the policy picks, or returns it with the reason.
    #[expect(
        clippy::result_large_err,
        reason = "the caller keeps the request; a box would be one more allocation"
    )]
    fn send(
        &self,
        request: Request<Body>,
    ) -> Result<SentTo<S, S::Future>, (Refusal, Request<Body>)> {
        let now = clock::now();
        let head = RequestHead::of(&request);
        let history = History::of(&request);
        let mut refusal = Refusal::NoRoom;
        // An endpoint that drains. If it is picked again, it is for one of its sessions.
        let mut draining = None::<EndpointHandle>;
        for _ in 0..MAX_PICKS {
            // Loaded for each pick: the endpoints of a replaced set may all be draining.
            let set = self.set.load();
            let options = &*set.options;
            self.group.sweep(now, options);
            let view =
                View::new(&set.endpoints, set.is_uniform, history, &self.group, now, options);
            let candidates = set.candidates(&view).for_request(head);
            let Some(index) = set.policy.pick(candidates) else {
                let seen: &Arc<Set<S, P>> = &set;
                if !Arc::ptr_eq(seen, &self.set.load_full()) {
                    continue;
                }
                if let Some(refusal) = view.refusal() {
                    return Err((refusal, request));
                }
                refusal = Refusal::Exhausted; // of the policy, unless the next pick differs
                continue;
            };
            let Some(endpoint) = set.endpoints.get(index).filter(|e| !view.is_tried(e)) else {
                return Err((Refusal::Exhausted, request));
            };
            let (handle, is_forced) = (endpoint.handle(), view.ignores_health());
            // The policy may have seen the endpoint before that.
            let is_leaving = |known: &Option<EndpointHandle>| {
                let is_known = known.as_ref().is_some_and(|known| known.is_same(handle));
                !handle.is_in(now) || (handle.is_draining() && !is_known)
            };
            if is_leaving(&draining) {
                refusal = Refusal::Exhausted; // unless the next pick differs
                draining = Some(handle.clone());
                continue;
            }
            if let Some(in_flight) = handle.begin(now, options, is_forced, Some(&self.group)) {
                // After the request is counted, for which `idle` may wait.
                if is_leaving(&draining) {
                    draining = Some(handle.clone());
                    continue;
                }
                if let Some(history) = history {
                    history.record_endpoint(endpoint.key());
                }
                let cookie = set.policy.set_cookie(candidates, index).map(Box::new);
                return Ok(Sent { future: endpoint.send(request, in_flight), cookie });
            }
            refusal = Refusal::NoRoom;
        }
        Err((refusal, request))
    }
}

impl<S, P> Shared<S, P> {
    /// Returns whether a request waits in the queue after this refusal.
    fn waits(&self, refusal: Refusal) -> bool {
        match refusal {
            Refusal::NoRoom => true,
            Refusal::Empty => self.waits_if_empty.load(Relaxed),
            Refusal::Exhausted => false,
        }
    }
}

/// Creates the error of a request that no endpoint can take.
fn refused(
    delivery_kind: AttemptErrorKind,
    kind: Kind,
    source: impl Into<BoxError>,
    request: Request<Body>,
) -> AttemptError {
    let source = Error::new(kind, source);
    AttemptError::new(delivery_kind, Delivery::NotSent, source).with_request(request)
}

impl<S, P, B> Service<Request<B>> for Balance<S, P>
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    P: Pick + 'static,
    B: HttpBody,
{
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = ResponseFuture<S, S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        ResponseFuture(if self.0.group.queue.has_waiting() {
            // Queued requests have precedence.
            State::Waiting(waiting::wait(self.0.clone(), request))
        } else {
            match self.0.send(request) {
                Ok(sent) => State::sent(sent),
                Err((refusal, request)) => self.0.refuse_or_wait(refusal, request),
            }
        })
    }
}

impl<S, P> Shared<S, P>
where
    S: HttpService<Future: Send> + Clone + Send + Sync + 'static,
    P: Pick + 'static,
{
    #[cold]
    fn refuse_or_wait(
        self: &Arc<Self>,
        refusal: Refusal,
        request: Request<Body>,
    ) -> State<S, S::Future> {
        if self.waits(refusal) {
            return State::Waiting(waiting::wait(self.clone(), request));
        }
        let kind = AttemptErrorKind::NoEndpoint;
        State::Failed(Some(refused(kind, Kind::Overloaded, NoEndpoint, request)))
    }
}

impl<S, P> Clone for Balance<S, P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, P> fmt::Debug for Balance<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = self.0.set.load();
        let keys: Vec<_> = set.endpoints.iter().map(|e| e.key().as_str()).collect();
        f.debug_struct("Balance").field("endpoints", &keys).finish_non_exhaustive()
    }
}

/// The future of [`Balance`].
#[pin_project]
pub struct ResponseFuture<S, F>(#[pin] State<S, F>);

#[pin_project(project = StateProj)]
enum State<S, F> {
    Waiting(WaitFuture<S, F>),
    Sent {
        #[pin]
        future: endpoint::ResponseFuture<S, F>,
        cookie: Option<Box<HeaderValue>>,
    },
    Failed(Option<AttemptError>),
}

impl<S, F> State<S, F> {
    fn sent(Sent { future, cookie }: SentTo<S, F>) -> Self {
        Self::Sent { future, cookie }
    }
}

impl<S> Future for ResponseFuture<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        loop {
            match state.as_mut().project() {
                StateProj::Sent { future, cookie } => {
                    let mut result = ready!(future.poll(cx));
                    if let Some(cookie) = cookie.take()
                        && let Ok(response) = &mut result
                    {
                        response.headers_mut().append(SET_COOKIE, *cookie);
                    }
                    return Poll::Ready(result);
                }
                StateProj::Waiting(future) => {
                    let sent = ready!(future.as_mut().poll(cx))?;
                    state.set(State::sent(sent));
                }
                StateProj::Failed(error) => {
                    let error = error.take().expect("not polled again after it has ended");
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
