//! Bounds of retries: budget, time, delay; and what may be sent again.

use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::{
    peer::Deadline,
    policy::{backoff::Backoff, retry_budget::RetryBudget},
};

const SEC: Duration = Duration::from_secs(1);

fn answered(request: Request<Body>) -> Outcome {
    let error = AttemptError::new(AttemptErrorKind::ConnectionLost, Delivery::Answered, "cut");
    Err(error.with_request(request).into())
}

#[tokio::test]
async fn retry_without_budget_left_returns_the_error() {
    let budget = Arc::new(RetryBudget::new(0).min_per_second(0).burst(1));
    for (left, calls) in [(true, 1), (false, 0)] {
        let (dead, alive) = (Scripted::new([not_sent as _]), Scripted::new([]));
        let retry = RetryLayer::new().budget(budget.clone()).layer(balance(&[&dead, &alive]));
        assert_eq!(send(retry, Method::GET).await.is_ok(), left);
        assert_eq!(alive.calls(), calls);
    }
    let (dead, alive) = (Scripted::new([not_sent as _]), Scripted::new([]));
    let layer = RetryLayer::new().budget(budget).without_budget();
    assert_eq!(send(layer.layer(balance(&[&dead, &alive])), Method::GET).await.unwrap(), 200);
}

#[tokio::test]
async fn request_without_a_retry_takes_nothing_from_the_budget() {
    let budget = Arc::new(RetryBudget::new(0).min_per_second(0).burst(1));
    for outcome in [maybe_sent as _, answered as _, failed as _] {
        let broken = Scripted::new([outcome]);
        let retry = RetryLayer::new().budget(budget.clone()).layer(balance(&[&broken]));
        send(retry, Method::POST).await.unwrap_err();
    }
    assert_eq!(budget.available(), 1);
}

#[tokio::test]
async fn repeatable_request_is_retried_with_any_method() {
    for (outcome, calls) in [(maybe_sent as _, 1), (answered as _, 0)] {
        let (broken, alive) = (Scripted::new([outcome]), Scripted::new([]));
        let layer = RetryLayer::new().repeatable(|request| request.headers().contains_key("key"));
        let retry = layer.layer(balance(&[&broken, &alive]));
        let post = Request::post("/").header("key", "1").body(Body::from("again")).unwrap();
        assert_eq!(retry.clone().oneshot(post).await.is_ok(), calls == 1);
        assert_eq!(alive.calls(), calls);
    }
    let (broken, alive) = (Scripted::new([maybe_sent as _]), Scripted::new([]));
    let layer = RetryLayer::new().repeatable(|request| request.headers().contains_key("key"));
    send(layer.layer(balance(&[&broken, &alive])), Method::POST).await.unwrap_err();
    assert_eq!(alive.calls(), 0);
}

#[tokio::test]
async fn answered_request_is_never_sent_again() {
    let (broken, alive) = (Scripted::new([answered as _]), Scripted::new([]));
    let retry = RetryLayer::new().layer(balance(&[&broken, &alive]));
    send(retry, Method::GET).await.unwrap_err();
    assert_eq!(alive.calls(), 0);
}

/// Takes two seconds for each attempt, or its deadline if that is earlier, and fails for want of time.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<Vec<Duration>>>);

impl Slow {
    async fn call(self, request: Request<Body>) -> Outcome {
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let left = deadline.map_or(9 * SEC, |d| d - Instant::now().into_std());
        self.0.lock().unwrap().push(left);
        tokio::time::sleep(left.min(2 * SEC)).await;
        too_late(request)
    }

    fn service(&self) -> impl HttpService<Body> + Clone + use<> {
        let slow = self.clone();
        service_fn(move |request| slow.clone().call(request))
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_timeout_is_limited_by_total_timeout() {
    let slow = Slow::default();
    let layer = RetryLayer::new().attempts(9).attempt_timeout(2 * SEC).total_timeout(5 * SEC);
    let began = Instant::now();
    send(layer.layer(slow.service()), Method::GET).await.unwrap_err();
    assert_eq!(*slow.0.lock().unwrap(), [2 * SEC, 2 * SEC, SEC]);
    assert_eq!(began.elapsed(), 5 * SEC);
    // The request's own deadline is kept, if it is earlier.
    let slow = Slow::default();
    let layer = RetryLayer::new().attempts(9).attempt_timeout(2 * SEC).total_timeout(5 * SEC);
    let mut request = request(Method::GET);
    request.extensions_mut().insert(Deadline((Instant::now() + 3 * SEC).into_std()));
    assert!(layer.layer(slow.service()).oneshot(request).await.is_err());
    assert_eq!(*slow.0.lock().unwrap(), [2 * SEC, SEC]);
    // Without a time of its own an attempt that was too slow has spent that of all.
    let slow = Slow::default();
    let layer = RetryLayer::new().total_timeout(5 * SEC);
    send(layer.layer(slow.service()), Method::GET).await.unwrap_err();
    assert_eq!(*slow.0.lock().unwrap(), [5 * SEC]);
}

#[tokio::test(start_paused = true)]
async fn delay_before_an_attempt_is_a_random_part_of_the_backoff() {
    let mut delays = Vec::new();
    for _ in 0..20 {
        let (dead, alive) = (Scripted::new([not_sent as _]), Scripted::new([]));
        let layer = RetryLayer::new().backoff(Backoff::new(SEC, SEC));
        let began = Instant::now();
        send(layer.layer(balance(&[&dead, &alive])), Method::GET).await.unwrap();
        delays.push(began.elapsed());
    }
    assert!(delays.iter().all(|delay| *delay <= SEC + Duration::from_millis(1)), "{delays:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 10, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn retry_fails_at_once_if_the_delay_would_end_after_the_deadline() {
    let deadline = Duration::from_millis(500);
    for has_own_deadline in [false, true] {
        let dead = [0; 9].map(|_| Scripted::new([not_sent as _]));
        let mut layer = RetryLayer::new().attempts(9).backoff(Backoff::new(1000 * SEC, 1000 * SEC));
        let mut request = request(Method::GET);
        let began = Instant::now();
        if has_own_deadline {
            request.extensions_mut().insert(Deadline((began + deadline).into_std()));
        } else {
            layer = layer.total_timeout(deadline);
        }
        let dead: Vec<_> = dead.iter().collect();
        let error = layer.layer(balance(&dead)).oneshot(request).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(began.elapsed() < deadline, "{:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn attempt_ends_at_its_timeout_if_the_service_has_none() {
    let hangs = service_fn(|_: Request<Body>| std::future::pending::<Outcome>());
    let balance = Balance::round_robin([Endpoint::new("a", ErasedService::new(hangs))]);
    for layer in [RetryLayer::new().attempt_timeout(SEC), RetryLayer::new().total_timeout(SEC)] {
        let began = Instant::now();
        let error = send(layer.layer(balance.clone()), Method::GET).await.unwrap_err();
        assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Timeout);
        let took = began.elapsed();
        assert!((SEC..SEC + SEC / 10).contains(&took), "{took:?}");
    }
    assert_eq!(balance.endpoints()[0].handle().failures(), 2);
}

#[tokio::test(start_paused = true)]
async fn wait_for_readiness_ends_at_the_deadline() {
    let never = Scripted {
        script: Arc::new(Script { never_ready: true, ..Script::default() }),
        is_ready: false,
    };
    let balance = balance(&[&never]);
    let mut request = request(Method::GET);
    let began = Instant::now();
    request.extensions_mut().insert(Deadline((began + SEC).into_std()));
    let error = balance.clone().oneshot(request).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Busy, Delivery::NotSent));
    let source = error.into_source();
    assert_eq!(Error::find(&*source).unwrap().kind(), Kind::Timeout);
    assert!(began.elapsed() < 2 * SEC, "{:?}", began.elapsed());
    // Another endpoint may be ready.
    let ready = Scripted::new([]);
    let both = super::balance(&[&never, &ready]);
    let retry = RetryLayer::new().attempt_timeout(SEC).layer(both);
    assert_eq!(send(retry, Method::POST).await.unwrap(), 200);
}

/// Fails its first request, and is not ready for another one.
#[derive(Clone, Default)]
struct Once(Arc<AtomicUsize>);

impl Service<Request<Body>> for Once {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Outcome>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.0.load(Relaxed) == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.fetch_add(1, Relaxed);
        ready(not_sent(request))
    }
}

#[tokio::test(start_paused = true)]
async fn wait_for_readiness_before_another_attempt_ends_at_the_deadline() {
    for has_own_deadline in [false, true] {
        let (mut layer, mut request) = (RetryLayer::new(), request(Method::GET));
        let began = Instant::now();
        if has_own_deadline {
            request.extensions_mut().insert(Deadline((began + SEC).into_std()));
        } else {
            layer = layer.total_timeout(SEC);
        }
        let call = layer.layer(Once::default()).oneshot(request);
        let error = tokio::time::timeout(9 * SEC, call).await.expect("it ends").unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let took = began.elapsed();
        assert!((SEC..SEC + SEC / 10).contains(&took), "{took:?}");
    }
}
