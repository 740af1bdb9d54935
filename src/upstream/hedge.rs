//! `Hedge`: sends an idempotent request a second time if the first takes long.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response, header::UPGRADE};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::history::{HedgedAttempts, History};
use crate::{
    HttpService,
    body::{Body, HttpBody},
    net::clock,
    policy::retry_budget::RetryBudget,
};

/// Wraps a service in [`Hedge`].
#[derive(Debug, Clone)]
pub struct HedgeLayer {
    delay: Duration,
    budget: Arc<RetryBudget>,
}

impl HedgeLayer {
    /// Creates a layer that sends a second request if there is no response after `delay`, with a budget of 5 % of the
    /// requests. A good delay is the 95th percentile of the response time.
    pub fn new(delay: Duration) -> Self {
        Self { delay, budget: Arc::new(RetryBudget::new(5)) }
    }

    /// Sets a budget that is shared with other layers. Default: a budget of its own, of 5 %.
    #[must_use]
    pub fn budget(mut self, budget: Arc<RetryBudget>) -> Self {
        self.budget = budget;
        self
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = Hedge<S>;

    fn layer(&self, inner: S) -> Hedge<S> {
        Hedge { inner, layer: self.clone() }
    }
}

/// Sends a request a second time if the first attempt takes long, and returns the first response. The other attempt
/// is dropped, which closes its connection.
///
/// A request is hedged only if its method is idempotent (RFC 9110 section 9.2.2), its body is empty, in memory or in a
/// file, and it does not ask for a tunnel; others pass unchanged. The head of such a request is copied before it is
/// sent. A [budget](HedgeLayer::budget) limits the second attempts, so that they do not double the load when all servers
/// are slow. The error of one attempt is returned only if the other has failed too, or has not begun.
///
/// Over [`Balance`](super::Balance) the second attempt goes to a different endpoint, if one is available, and a retry
/// after both have failed goes to neither of their endpoints. Put it inside of
/// [`Retry`](super::Retry) and outside of the balancer. Readiness passes through.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, upstream::HedgeLayer};
///
/// let service = ServiceBuilder::new().layer(HedgeLayer::new(Duration::from_millis(50))).service(
///     service_fn(|_: Request| async { Ok::<_, BoxError>(Response::new(Body::empty())) }),
/// );
/// # let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// rt.block_on(service.oneshot(Request::new(Body::empty()))).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Hedge<S> {
    inner: S,
    layer: HedgeLayer,
}

impl<S, B> Service<Request<B>> for Hedge<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = Response<S::ResponseBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S, S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        let hedge = copy(&request).map(|mut copy| {
            self.layer.budget.deposit();
            let attempts = HedgedAttempts::default();
            for request in [&mut request, &mut copy] {
                History::set_hedged(request, attempts.clone());
            }
            SecondAttempt {
                request: Box::new(copy),
                attempts,
                service: self.inner.clone(),
                budget: self.layer.budget.clone(),
                delay: Some(Box::pin(sleep(self.layer.delay))),
            }
        });
        ResponseFuture { first: Some(self.inner.call(request)), second: None, hedge, error: None }
    }
}

/// Returns a copy of the request, if it may be sent twice.
fn copy(request: &Request<Body>) -> Option<Request<Body>> {
    if !request.method().is_idempotent() || request.headers().contains_key(UPGRADE) {
        return None;
    }
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// A second attempt that has not begun.
struct SecondAttempt<S> {
    request: Box<Request<Body>>,
    attempts: HedgedAttempts,
    service: S,
    budget: Arc<RetryBudget>,
    /// `None` after it has passed and the budget has been charged.
    delay: Option<Pin<Box<Sleep>>>,
}

/// The future of [`Hedge`].
#[pin_project]
pub struct ResponseFuture<S, F, E> {
    #[pin]
    first: Option<F>,
    #[pin]
    second: Option<F>,
    hedge: Option<SecondAttempt<S>>,
    /// The error of a failed attempt while the other one runs.
    error: Option<E>,
}

impl<S> Future for ResponseFuture<S, S::Future, S::Error>
where
    S: HttpService,
{
    type Output = Result<Response<S::ResponseBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            for mut attempt in [this.first.as_mut(), this.second.as_mut()] {
                let Some(future) = attempt.as_mut().as_pin_mut() else { continue };
                match future.poll(cx) {
                    Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
                    Poll::Ready(Err(error)) => {
                        attempt.set(None);
                        *this.error = Some(error);
                    }
                    Poll::Pending => {}
                }
            }
            if this.first.is_none() && this.second.is_none() {
                let error = this.error.take().expect("not polled again after it has ended");
                return Poll::Ready(Err(error));
            }
            let Some(hedge) = this.hedge else { return Poll::Pending };
            if let Some(delay) = &mut hedge.delay {
                ready!(delay.as_mut().poll(cx));
                if !hedge.budget.try_withdraw(clock::now()) {
                    *this.hedge = None;
                    return Poll::Pending;
                }
                hedge.delay = None;
            }
            // The first attempt continues if the service cannot take a second one.
            let is_ready = ready!(hedge.service.poll_ready(cx)).is_ok();
            let mut hedge = this.hedge.take().expect("it is `Some` just above");
            if !is_ready {
                return Poll::Pending;
            }
            if let Some(first) = hedge.attempts.endpoint() {
                History::avoid(&mut hedge.request, &first);
            }
            this.second.set(Some(hedge.service.call(*hedge.request)));
        }
    }
}

impl<S, F, E> fmt::Debug for ResponseFuture<S, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
