//! Second attempts before the first has failed, and copies for a shadow.

use std::time::Duration;

use super::*;
use crate::{
    conn::InterimResponses,
    policy::{pick::First, retry_budget::RetryBudget},
    upstream::{
        HedgeLayer, MirrorLayer,
        history::{HedgedAttempts, History},
    },
};

const SEC: Duration = Duration::from_secs(1);

/// A service whose first call takes `first`, and each other none; counts calls. A call's response is its
/// number.
fn slow_at_first(
    first: Duration,
    calls: &Arc<AtomicUsize>,
) -> impl HttpService<Body, ResponseBody = Body, Error = BoxError> + Clone + use<> {
    let calls = calls.clone();
    service_fn(move |_: Request<Body>| {
        let n = calls.fetch_add(1, Relaxed);
        async move {
            tokio::time::sleep(if n == 0 { first } else { Duration::ZERO }).await;
            Ok::<_, BoxError>(Response::new(Body::from(n.to_string())))
        }
    })
}

async fn winner<S>(service: S, method: Method) -> bytes::Bytes
where
    S: HttpService<Body, ResponseBody = Body, Error: fmt::Debug>,
{
    service.oneshot(request(method)).await.unwrap().into_body().as_bytes().unwrap()
}

#[tokio::test(start_paused = true)]
async fn hedge_sends_slow_idempotent_request_twice_and_returns_first_response() {
    for (method, first, won, sent) in [
        (Method::GET, 9 * SEC, "1", 2),
        (Method::GET, SEC / 2, "0", 1),
        (Method::POST, 9 * SEC, "0", 1),
    ] {
        let calls = Arc::new(AtomicUsize::new(0));
        let service = HedgeLayer::new(SEC).layer(slow_at_first(first, &calls));
        assert_eq!(winner(service, method.clone()).await, won, "{method} {first:?}");
        assert_eq!(calls.load(Relaxed), sent, "{method} {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn hedge_sends_second_attempt_to_another_endpoint_if_there_is_one() {
    for (names, won) in [(&["slow", "quick"][..], "quick"), (&["slow"][..], "slow")] {
        let calls = Arc::new(AtomicUsize::new(0));
        let endpoints = names.iter().map(|name| {
            let calls = calls.clone();
            let service = service_fn(move |_: Request<Body>| {
                let is_first = calls.fetch_add(1, Relaxed) == 0;
                async move {
                    tokio::time::sleep(if is_first { 9 * SEC } else { Duration::ZERO }).await;
                    Ok::<_, BoxError>(Response::new(Body::from(*name)))
                }
            });
            Endpoint::new(*name, ErasedService::new(service))
        });
        // It picks the first endpoint, as often as it may.
        let balance = Balance::new(endpoints, First::new());
        let began = tokio::time::Instant::now();
        assert_eq!(winner(HedgeLayer::new(SEC).layer(balance), Method::GET).await, won);
        assert_eq!((began.elapsed(), calls.load(Relaxed)), (SEC, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn retry_skips_the_endpoints_of_both_attempts_of_a_hedge() {
    // The error of "a", which fails last, is the one that is returned.
    let endpoints = [("a", Some(9 * SEC)), ("b", Some(SEC)), ("c", None)].map(|(name, fails)| {
        let service = service_fn(move |request: Request<Body>| async move {
            let Some(after) = fails else {
                return Ok(Response::new(Body::from(name)));
            };
            tokio::time::sleep(after).await;
            let (kind, sent) = (AttemptErrorKind::ConnectionLost, Delivery::MaybeSent);
            Err(AttemptError::new(kind, sent, "reset").with_request(request))
        });
        Endpoint::new(name, ErasedService::new(service))
    });
    let handles = [0, 1].map(|i: usize| endpoints[i].handle().clone());
    let hedge = HedgeLayer::new(SEC).layer(Balance::new(endpoints, First::new()));
    let service = RetryLayer::new().attempts(2).layer(hedge);
    assert_eq!(winner(service, Method::GET).await, "c");
    for handle in handles {
        assert_eq!(handle.failures(), 1, "{}", handle.key());
    }
}

#[tokio::test(start_paused = true)]
async fn hedge_needs_a_budget_and_a_body_that_can_be_sent_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let none = Arc::new(RetryBudget::new(0).min_per_second(0).burst(0));
    let service = HedgeLayer::new(SEC).budget(none).layer(slow_at_first(9 * SEC, &calls));
    assert_eq!(winner(service, Method::GET).await, "0");
    let calls = Arc::new(AtomicUsize::new(0));
    let service = HedgeLayer::new(SEC).layer(slow_at_first(9 * SEC, &calls));
    let (_tx, body) = Body::channel(None);
    let put = Request::put("/").body(body).unwrap();
    let response = service.oneshot(put).await.unwrap();
    assert_eq!(response.into_body().as_bytes().unwrap(), "0");
}

#[tokio::test(start_paused = true)]
async fn hedge_returns_an_error_when_no_attempt_is_left() {
    // The first fails before the second has begun.
    let failing =
        service_fn(|_: Request<Body>| async { Err::<Response<Body>, BoxError>("a".into()) });
    let error = HedgeLayer::new(SEC).layer(failing).oneshot(request(Method::GET)).await;
    assert_eq!(error.unwrap_err().to_string(), "a");
    // The second fails at once, the first answers later.
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let second_fails = service_fn(move |_: Request<Body>| {
        let n = count.fetch_add(1, Relaxed);
        async move {
            if n > 0 {
                return Err::<_, BoxError>("b".into());
            }
            tokio::time::sleep(5 * SEC).await;
            Ok(Response::new(Body::from("late")))
        }
    });
    assert_eq!(winner(HedgeLayer::new(SEC).layer(second_fails), Method::GET).await, "late");
    assert_eq!(calls.load(Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn mirror_sends_its_share_to_the_shadow_and_returns_the_real_response() {
    let (tx, mut shadowed) = tokio::sync::mpsc::unbounded_channel();
    let shadow = service_fn(move |request: Request<Body>| {
        tx.send(request).unwrap();
        async { Err::<Response<Body>, BoxError>("the shadow is broken".into()) }
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let real = slow_at_first(Duration::ZERO, &calls);
    let service = MirrorLayer::new(shadow).per_mille(100).layer(real);
    for n in 0..100 {
        let post = Request::post("/path").header("a", "b").body(Body::from("content")).unwrap();
        let response = service.clone().oneshot(post).await.unwrap();
        assert_eq!(response.into_body().as_bytes().unwrap(), n.to_string());
        tokio::task::yield_now().await;
    }
    drop(service);
    let mut copies = 0;
    while let Some(copy) = shadowed.recv().await {
        assert_eq!((copy.method(), copy.uri().path()), (&Method::POST, "/path"));
        assert_eq!(copy.headers()["a"], "b");
        assert_eq!(copy.into_body().as_bytes().unwrap(), "content");
        copies += 1;
    }
    assert_eq!((copies, calls.load(Relaxed)), (10, 100));
}

#[tokio::test(start_paused = true)]
async fn mirror_limits_copies_in_flight_and_times_out_slow_ones() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let hangs = service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Relaxed);
        std::future::pending::<Result<Response<Body>, BoxError>>()
    });
    let real = slow_at_first(Duration::ZERO, &Arc::default());
    let service = MirrorLayer::new(hangs).max_in_flight(2).timeout(SEC).layer(real);
    let (_tx, body) = Body::channel(None);
    let streamed = Request::post("/").body(body).unwrap();
    service.clone().oneshot(streamed).await.unwrap();
    for _ in 0..5 {
        send(service.clone(), Method::GET).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(calls.load(Relaxed), 2, "a body that streams is not copied");
    tokio::time::sleep(2 * SEC).await;
    send(service, Method::GET).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(calls.load(Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn mirror_sends_no_interim_response_of_the_shadow_to_the_client() {
    let (tx, mut shadowed) = tokio::sync::mpsc::unbounded_channel();
    let shadow = service_fn(move |request: Request<Body>| {
        tx.send(request).unwrap();
        ready(Ok::<_, BoxError>(Response::new(Body::empty())))
    });
    let real = slow_at_first(Duration::ZERO, &Arc::default());
    let service = MirrorLayer::new(shadow).layer(real);
    let mut request = request(Method::GET);
    let (interim, attempts) = (InterimResponses::default(), HedgedAttempts::default());
    request.extensions_mut().insert(interim);
    request.extensions_mut().insert("kept");
    History::set_hedged(&mut request, attempts);
    service.oneshot(request).await.unwrap();
    let copy = shadowed.recv().await.unwrap();
    assert!(copy.extensions().get::<InterimResponses>().is_none());
    assert!(History::of(&copy).is_none());
    assert!(copy.extensions().get::<&str>().is_some());
}
