//! `Balance`: spreads requests over endpoints.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project::pin_project;
use tower_service::Service;

use super::{
    endpoint::{self, Endpoint},
    error::{AttemptError, AttemptErrorKind, NoEndpoint},
    history::History,
};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    conn::Delivery,
    error::{Error, Kind},
    policy::pick::{Candidate, Candidates, Pick, RoundRobin, Source},
};

/// Sends each request to the endpoint that a policy picks.
///
/// A request that [`Retry`](super::Retry) sends again goes to an endpoint that was not tried for it. If all
/// were tried, it goes once more to an endpoint for which only an idle connection was tried. After that the
/// error is [`AttemptErrorKind::NoEndpoint`].
///
/// While all endpoints that were not tried are ejected, the policy sees them as available: an attempt that
/// will probably fail is better than a refusal.
///
/// Always ready. Cheap to clone: clones share endpoints and policy.
///
/// An example with a pool of worker threads, a remote server and a closure as endpoints:
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
/// # drop(balance);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Balance<S, P = RoundRobin>(Arc<Shared<S, P>>);

struct Shared<S, P> {
    endpoints: Arc<[Endpoint<S>]>,
    is_uniform: bool,
    policy: P,
}

impl<S, P: Pick> Balance<S, P> {
    /// Creates a balancer of these endpoints. Without endpoints, every request fails.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint<S>>, policy: P) -> Self {
        let endpoints: Arc<[_]> = endpoints.into_iter().collect();
        let is_uniform = endpoints.windows(2).all(|w| w[0].get_weight() == w[1].get_weight());
        Self(Arc::new(Shared { endpoints, is_uniform, policy }))
    }
}

impl<S> Balance<S> {
    /// Creates a balancer that sends requests to these endpoints in turn.
    pub fn round_robin(endpoints: impl IntoIterator<Item = Endpoint<S>>) -> Self {
        Self::new(endpoints, RoundRobin::new())
    }
}

impl<S, P> Balance<S, P> {
    /// Returns the endpoints.
    pub fn endpoints(&self) -> &[Endpoint<S>] {
        &self.0.endpoints
    }
}

impl<S, P: Pick> Shared<S, P> {
    /// Picks the endpoint for this request. Calls the policy once.
    fn pick(&self, request: &Request<Body>) -> Option<&Endpoint<S>> {
        let history = History::of(request);
        let mut view = View {
            endpoints: &self.endpoints,
            is_uniform: self.is_uniform,
            history,
            ignores_ejection: false,
            may_repeat: false,
        };
        if view.all_are_tried() {
            view.may_repeat = true;
        }
        view.ignores_ejection = !view.has_eligible();
        let index = self.policy.pick(Candidates::new(&view))?;
        let endpoint = self.endpoints.get(index)?;
        (!view.is_tried(endpoint)).then_some(endpoint)
    }
}

/// The endpoints in the view of one request.
struct View<'a, S> {
    endpoints: &'a [Endpoint<S>],
    is_uniform: bool,
    history: Option<&'a History>,
    /// Whether ejected endpoints count as available: all that were not tried are ejected.
    ignores_ejection: bool,
    /// Whether an endpoint may be tried again: all were tried.
    may_repeat: bool,
}

impl<S> View<'_, S> {
    fn is_tried(&self, endpoint: &Endpoint<S>) -> bool {
        match self.history {
            None => false,
            Some(history) if self.may_repeat => history.has_exhausted(endpoint.key()),
            Some(history) => history.has_tried(endpoint.key()),
        }
    }

    fn is_available(&self, endpoint: &Endpoint<S>) -> bool {
        self.ignores_ejection || endpoint.handle().is_available()
    }

    fn all_are_tried(&self) -> bool {
        self.history.is_some() && self.endpoints.iter().all(|e| self.is_tried(e))
    }

    fn has_eligible(&self) -> bool {
        self.endpoints.iter().any(|e| self.is_available(e) && !self.is_tried(e))
    }
}

impl<S> Source for View<'_, S> {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        let endpoint = &self.endpoints[index];
        let mut candidate = Candidate::new(endpoint.key().as_str());
        candidate.weight = endpoint.get_weight();
        candidate.in_flight = endpoint.handle().in_flight();
        candidate.is_available = self.is_available(endpoint);
        candidate.is_tried = self.is_tried(endpoint);
        candidate
    }

    fn is_uniform(&self) -> bool {
        self.is_uniform
    }
}

impl<S, P, B> Service<Request<B>> for Balance<S, P>
where
    S: HttpService + Clone,
    P: Pick,
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
        ResponseFuture(match self.0.pick(&request) {
            Some(endpoint) => State::Sent(endpoint.send(request)),
            None => {
                let source = Error::new(Kind::Overloaded, NoEndpoint);
                let error =
                    AttemptError::new(AttemptErrorKind::NoEndpoint, Delivery::NotSent, source);
                State::Failed(Some(error.with_request(request)))
            }
        })
    }
}

impl<S, P> Clone for Balance<S, P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S, P> fmt::Debug for Balance<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handles: Vec<_> = self.0.endpoints.iter().map(Endpoint::handle).collect();
        f.debug_struct("Balance").field("endpoints", &handles).finish_non_exhaustive()
    }
}

/// The future of [`Balance`].
#[pin_project]
pub struct ResponseFuture<S, F>(#[pin] State<S, F>);

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State<S, F> {
    Sent(#[pin] endpoint::ResponseFuture<S, F>),
    Failed(Option<AttemptError>),
}

impl<S> Future for ResponseFuture<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProj::Sent(future) => future.poll(cx),
            StateProj::Failed(error) => {
                Poll::Ready(Err(error.take().expect("not polled again after it has ended")))
            }
        }
    }
}

impl<S, F> fmt::Debug for ResponseFuture<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
