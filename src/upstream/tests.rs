//! Tests of endpoints, balancing and retries over services in memory; tests with sockets are in
//! `src/tests/upstream.rs`.

mod copies;
mod endpoints;
mod options;
mod retry;
mod slow;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Method;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    Error, HttpService,
    error::Kind,
    policy::pick::{Candidates, RoundRobin},
};

/// Awaits a future. Panics after 60 s, for which no test waits. The clock must not be paused: it would advance to that time.
pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it hangs")
}

type Outcome = Result<Response<Body>, BoxError>;
type Step = fn(Request<Body>) -> Outcome;

/// Returns the scripted outcomes in turn, and then 200. Panics when it is called without being ready.
#[derive(Default)]
struct Scripted {
    script: Arc<Script>,
    is_ready: bool,
}

#[derive(Default)]
struct Script {
    calls: AtomicUsize,
    outcomes: Mutex<VecDeque<Step>>,
    never_ready: bool,
    fails_to_become_ready: bool,
}

impl Scripted {
    fn new(outcomes: impl IntoIterator<Item = Step>) -> Self {
        let outcomes = Mutex::new(outcomes.into_iter().collect());
        Self { script: Arc::new(Script { outcomes, ..Script::default() }), is_ready: false }
    }

    fn calls(&self) -> usize {
        self.script.calls.load(Relaxed)
    }
}

impl Clone for Scripted {
    fn clone(&self) -> Self {
        Self { script: self.script.clone(), is_ready: false }
    }
}

impl Service<Request<Body>> for Scripted {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Outcome>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.script.fails_to_become_ready {
            return Poll::Ready(Err("broken".into()));
        }
        self.is_ready = !self.script.never_ready;
        if self.is_ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without being ready");
        self.script.calls.fetch_add(1, Relaxed);
        let outcome = self.script.outcomes.lock().unwrap().pop_front();
        ready(outcome.map_or_else(|| Ok(Response::new(Body::empty())), |outcome| outcome(request)))
    }
}

fn not_sent(request: Request<Body>) -> Outcome {
    let source = Error::new(Kind::BadGateway, "refused");
    let error = AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, source);
    Err(error.with_request(request).into())
}

fn maybe_sent(request: Request<Body>) -> Outcome {
    let source = Error::new(Kind::BadGateway, "broken");
    let error = AttemptError::new(AttemptErrorKind::ConnectionLost, Delivery::MaybeSent, source);
    Err(error.with_request(request).into())
}

fn stale(request: Request<Body>) -> Outcome {
    let source = Error::new(Kind::BadGateway, "closed");
    let error = AttemptError::new(AttemptErrorKind::StaleConnection, Delivery::MaybeSent, source);
    Err(error.with_request(request).into())
}

fn too_late(request: Request<Body>) -> Outcome {
    let source = Error::new(Kind::Timeout, "too late");
    let error = AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, source);
    Err(error.with_request(request).into())
}

fn failed(_: Request<Body>) -> Outcome {
    Err(Error::new(Kind::Internal, "a bug").into())
}

fn request(method: Method) -> Request<Body> {
    Request::builder().method(method).body(Body::empty()).unwrap()
}

fn balance(services: &[&Scripted]) -> Balance<Scripted> {
    let named = services.iter().enumerate();
    Balance::round_robin(named.map(|(i, s)| Endpoint::new(i.to_string(), (*s).clone())))
}

async fn send<S: HttpService>(service: S, method: Method) -> Result<u16, BoxError> {
    let response = service.oneshot(request(method)).await.map_err(Into::into)?;
    Ok(response.status().as_u16())
}

#[tokio::test]
async fn retry_sends_unsent_request_with_any_method_and_body_to_another_endpoint() {
    let (dead, alive) = (Scripted::new([not_sent as _]), Scripted::new([]));
    let retry = RetryLayer::new().layer(balance(&[&dead, &alive]));
    let (tx, body) = Body::channel(None);
    let streamed = Request::post("/").body(body).unwrap();
    assert_eq!(retry.oneshot(streamed).await.unwrap().status(), 200);
    assert_eq!((dead.calls(), alive.calls()), (1, 1));
    drop(tx);
}

#[tokio::test]
async fn retry_repeats_possibly_sent_request_only_if_idempotent() {
    for (method, calls) in [(Method::GET, 1), (Method::PUT, 1), (Method::POST, 0)] {
        let (broken, alive) = (Scripted::new([maybe_sent as _]), Scripted::new([]));
        let retry = RetryLayer::new().layer(balance(&[&broken, &alive]));
        let status = send(retry, method.clone()).await;
        assert_eq!((status.is_ok(), alive.calls()), (calls == 1, calls), "{method}");
    }
}

#[tokio::test]
async fn retry_returns_timeouts_and_failures_of_the_service() {
    for (outcome, kind) in [(too_late as _, Kind::Timeout), (failed as _, Kind::Internal)] {
        let (slow, alive) = (Scripted::new([outcome]), Scripted::new([]));
        let retry = RetryLayer::new().layer(balance(&[&slow, &alive]));
        let error = send(retry, Method::GET).await.unwrap_err();
        assert_eq!(error.downcast::<Error>().unwrap().kind(), kind, "the source alone");
        assert_eq!(alive.calls(), 0);
    }
}

#[tokio::test]
async fn retry_tries_each_endpoint_once_and_returns_last_failure() {
    let dead = [0; 3].map(|_| Scripted::new([not_sent as _, not_sent as _]));
    let retry = RetryLayer::new().attempts(9).layer(balance(&[&dead[0], &dead[1], &dead[2]]));
    let error = send(retry, Method::GET).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(dead.map(|d| d.calls()), [1; 3]);
}

#[tokio::test]
async fn retry_ends_after_its_attempts() {
    let dead = [0; 3].map(|_| Scripted::new([not_sent as _]));
    let retry = RetryLayer::new().attempts(2).layer(balance(&[&dead[0], &dead[1], &dead[2]]));
    send(retry, Method::GET).await.unwrap_err();
    assert_eq!(dead.map(|d| d.calls()), [1, 1, 0]);
}

#[tokio::test]
async fn stale_connection_sends_request_elsewhere_and_is_no_failure() {
    let (stale_one, other) = (Scripted::new([stale as _]), Scripted::new([]));
    let balance = balance(&[&stale_one, &other]);
    let retry = RetryLayer::new().layer(balance.clone());
    assert_eq!(send(retry, Method::GET).await.unwrap(), 200);
    assert_eq!((stale_one.calls(), other.calls()), (1, 1));
    let handle = balance.endpoints()[0].handle().clone();
    assert_eq!((handle.failures(), handle.is_available()), (0, true));
}

#[tokio::test]
async fn stale_connection_of_only_endpoint_is_repeated_once() {
    let only = Scripted::new([stale as _]);
    let retry = RetryLayer::new().attempts(9).layer(balance(&[&only]));
    assert_eq!(send(retry, Method::GET).await.unwrap(), 200);
    assert_eq!(only.calls(), 2);

    let only = Scripted::new([stale as _, stale as _, stale as _]);
    let retry = RetryLayer::new().attempts(9).layer(balance(&[&only]));
    send(retry, Method::GET).await.unwrap_err();
    assert_eq!(only.calls(), 2);
}

#[tokio::test]
async fn retry_passes_readiness_through() {
    let never = Scripted {
        script: Arc::new(Script { never_ready: true, ..Script::default() }),
        is_ready: false,
    };
    let mut retry = RetryLayer::new().layer(never);
    let ready =
        poll_fn(|cx| Poll::Ready(<_ as Service<Request<Body>>>::poll_ready(&mut retry, cx)));
    assert!(ready.await.is_pending());
}

#[test]
fn builder_returns_first_invalid_address_in_any_order_of_options() {
    let error = Upstream::builder(["a:1", "no port", "worse"])
        .pool(PoolConfig::new().keep_idle(1))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("'no port'"), "{error}");
    let error = UpstreamBuilder::new().build().unwrap_err();
    assert_eq!(error.to_string(), "the proxy has no server: add one, or call `empty`");
    let built = UpstreamBuilder::new()
        .pool(PoolConfig::new().keep_idle(1))
        .server("unix:/a")
        .server("b:2")
        .build()
        .unwrap();
    let endpoints = built.endpoints();
    let keys: Vec<_> = endpoints.iter().map(|e| e.key().as_str()).collect();
    assert!(Upstream::new(["a:1", "a:1"]).is_err(), "a server is named twice");
    assert_eq!(keys, ["unix:/a", "b:2"]);
}

#[test]
fn services_are_clone_send_and_sync() {
    fn assert_shared<T: Clone + Send + Sync + 'static>() {}
    assert_shared::<Upstream>();
    assert_shared::<Remote>();
    assert_shared::<Endpoint<Remote>>();
    assert_shared::<Balance<ErasedService>>();
    assert_shared::<Forward<Retry<Balance<Remote>>>>();
    assert_shared::<EndpointHandle>();
}

#[test]
fn future_of_whole_proxy_is_small() {
    let size = size_of::<ResponseFuture>();
    // A server moves it into a box for each request.
    assert!(size <= 160, "{size} bytes");
}
