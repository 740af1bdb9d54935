//! Sets that change, limits and what can be seen of them.

mod live;
mod outliers;
mod picks;
mod queued;
mod simulation;

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    error::Error as _,
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use http::{StatusCode, header::COOKIE};
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{
    body::Sender,
    policy::{
        health::{HealthOptions, Phase},
        pick::{ConsistentHash, PeakEwma, RequestKey, Sticky},
    },
    upstream::{
        EndpointHandle, EndpointLimits, ErasedService, QueueError, QueueOptions, RetryLayer,
    },
};

/// Endpoints that answer with their key, in a body that ends when the test ends it.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<VecDeque<Sender>>>);

impl Held {
    fn endpoint(&self, key: &'static str) -> Endpoint<ErasedService> {
        let held = self.0.clone();
        let service = service_fn(move |_: Request<Body>| {
            let (tx, body) = Body::channel(None);
            held.lock().unwrap().push_back(tx);
            let mut response = Response::new(body);
            response.headers_mut().insert("x-key", HeaderValue::from_static(key));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        Endpoint::new(key, ErasedService::new(service))
    }

    /// Ends the oldest response.
    fn end(&self) {
        drop(self.0.lock().unwrap().pop_front().unwrap());
    }
}

/// An endpoint that answers at once with its key.
fn named(key: &'static str) -> Endpoint<ErasedService> {
    let service = service_fn(move |_: Request<Body>| {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("x-key", HeaderValue::from_static(key));
        std::future::ready(Ok::<_, Infallible>(response))
    });
    Endpoint::new(key, ErasedService::new(service))
}

fn request() -> Request<Body> {
    Request::new(Body::empty())
}

fn key_of(response: &Response<Body>) -> String {
    response.headers()["x-key"].to_str().unwrap().to_owned()
}

async fn ask<P: Pick + 'static>(balance: &Balance<ErasedService, P>) -> String {
    key_of(&balance.clone().oneshot(request()).await.unwrap())
}

async fn shares<P: Pick + 'static>(
    balance: &Balance<ErasedService, P>,
    n: usize,
) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..n {
        *shares.entry(ask(balance).await).or_default() += 1;
    }
    shares
}

fn of<const N: usize>(shares: [(&str, usize); N]) -> BTreeMap<String, usize> {
    shares.map(|(key, n)| (key.to_owned(), n)).into()
}

fn queue_error(error: &AttemptError) -> Option<&QueueError> {
    let error: &(dyn std::error::Error + 'static) = Error::find(error)?;
    error.source()?.downcast_ref()
}

#[tokio::test]
async fn set_changes_during_requests() {
    let balance = Balance::round_robin([named("a"), named("b")]);
    assert_eq!(shares(&balance, 4).await, of([("a", 2), ("b", 2)]));
    assert!(balance.insert(named("c")).is_none());
    assert_eq!(shares(&balance, 6).await, of([("a", 2), ("b", 2), ("c", 2)]));
    assert_eq!(balance.remove("a").unwrap().key().as_str(), "a");
    assert!(balance.remove("a").is_none() && balance.endpoint("a").is_none());
    assert_eq!(shares(&balance, 4).await, of([("b", 2), ("c", 2)]));
    assert!(balance.set_weight("c", 3) && !balance.set_weight("a", 3));
    assert_eq!(shares(&balance, 8).await, of([("b", 2), ("c", 6)]));
    // The endpoint that stays keeps its state, and gets the new weight.
    let before = balance.endpoint("c").unwrap();
    let removed = balance.replace([named("d"), named("c"), named("c")]);
    assert_eq!(removed.len(), 1);
    assert_eq!(balance.status().iter().map(|s| s.requests).collect::<Vec<_>>(), [0, 10]);
    assert_eq!(balance.status()[1].weight, 1);
    before.drain();
    assert_eq!(shares(&balance, 2).await, of([("d", 2)]));
}

#[tokio::test]
#[should_panic(expected = "two endpoints have the key a")]
async fn set_with_two_equal_keys_is_refused() {
    let _ = Balance::round_robin([named("a"), named("a")]);
}

#[tokio::test]
async fn policy_is_replaced_during_requests() {
    let first: Arc<dyn Pick> = Arc::new(crate::policy::pick::First::new());
    let balance = Balance::new([named("a"), named("b")], first);
    assert_eq!(shares(&balance, 3).await, of([("a", 3)]));
    let second: Arc<dyn Pick> = Arc::new(RoundRobin::new());
    balance.set_policy(second.clone());
    assert!(Arc::ptr_eq(&*balance.policy(), &second));
    assert_eq!(shares(&balance, 4).await, of([("a", 2), ("b", 2)]));
}

#[tokio::test]
async fn removed_endpoint_finishes_its_requests() {
    let held = Held::default();
    let balance = Balance::round_robin([held.endpoint("a")]);
    let response = balance.clone().oneshot(request()).await.unwrap();
    let removed = balance.remove("a").unwrap();
    assert_eq!(removed.handle().in_flight(), 1);
    let error = balance.clone().oneshot(request()).await.unwrap_err();
    assert!(error.source().is_some() && error.kind() == AttemptErrorKind::NoEndpoint);
    drop(response);
    removed.handle().idle().await;
}

/// While the set changes all the time no request fails, and none goes to an endpoint that was removed before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn set_that_changes_under_load_loses_no_request() {
    const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let balance = Balance::new(KEYS.map(named), PeakEwma::new());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for _ in 0..2000 {
                    balance.clone().oneshot(request()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut turn = 0;
    while clients.iter().any(|client| !client.is_finished()) {
        let key = KEYS[turn % 6];
        assert!(balance.remove(key).is_some());
        assert!(balance.insert(named(key)).is_none());
        balance.set_weight(KEYS[(turn + 1) % 6], 1 + turn as u32 % 3);
        if turn % 50 == 0 {
            balance.replace(KEYS[..3].iter().map(|key| named(key)));
            balance.replace(KEYS.iter().map(|key| named(key)));
        }
        turn += 1;
        tokio::task::yield_now().await;
    }
    for client in clients {
        client.await.unwrap();
    }
    assert!(balance.status().iter().all(|s| s.in_flight == 0 && s.failures == 0));
}

#[tokio::test]
async fn sticky_cookie_is_set_once_and_followed() {
    let policy = Sticky::new([3; 16], RoundRobin::new()).cookie("at").unwrap();
    let balance = Balance::new([named("a"), named("b"), named("c")], policy);
    let response = balance.clone().oneshot(request()).await.unwrap();
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let again = || {
        let mut request = request();
        request.headers_mut().insert(COOKIE, cookie.parse().unwrap());
        balance.clone().oneshot(request)
    };
    for _ in 0..5 {
        let next = again().await.unwrap();
        assert_eq!((key_of(&next), next.headers().get(SET_COOKIE)), (key_of(&response), None));
    }
    balance.endpoint(&key_of(&response)).unwrap().drain();
    assert_eq!(key_of(&again().await.unwrap()), key_of(&response));
    balance.endpoint(&key_of(&response)).unwrap().eject(Duration::MAX);
    let elsewhere = again().await.unwrap();
    assert_ne!(key_of(&elsewhere), key_of(&response));
    assert!(elsewhere.headers().contains_key(SET_COOKIE));
}

#[tokio::test]
async fn hash_follows_key_of_request_through_changes() {
    let balance = Balance::new(
        [named("a"), named("b"), named("c")],
        ConsistentHash::ring(RequestKey::path()),
    );
    let ask = |path: String| {
        let mut request = request();
        *request.uri_mut() = path.parse().unwrap();
        balance.clone().oneshot(request)
    };
    let mut before = Vec::new();
    for n in 0..60 {
        before.push(key_of(&ask(format!("/{n}")).await.unwrap()));
    }
    balance.remove("b");
    for (n, before) in before.iter().enumerate() {
        let now = key_of(&ask(format!("/{n}")).await.unwrap());
        assert!(now == *before || before == "b", "{n}: {before} {now}");
    }
}

#[tokio::test]
async fn operator_takes_last_endpoint_out() {
    let balance = Balance::round_robin([named("a")]);
    balance.endpoint("a").unwrap().eject(Duration::MAX);
    let error = balance.clone().oneshot(request()).await.unwrap_err();
    assert!(Error::find(&error).is_some_and(Error::is_overloaded), "503");
    balance.endpoint("a").unwrap().restore();
    assert_eq!(ask(&balance).await, "a");
}

#[tokio::test(start_paused = true)]
async fn half_open_endpoint_gets_one_probe_at_a_time() {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = broken.clone();
    let service = service_fn(move |_: Request<Body>| {
        let is_broken = flag.load(Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let error = AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, "gone");
            if is_broken { Err(error) } else { Ok(Response::new(Body::empty())) }
        }
    });
    let endpoint = Endpoint::new("b", ErasedService::new(service));
    let (balance, handle) =
        (Balance::round_robin([named("a"), endpoint.clone()]), endpoint.handle());
    let burst = || async {
        let calls = (0..20).map(|_| balance.clone().oneshot(request()));
        let calls: Vec<_> = calls.map(tokio::spawn).collect();
        let mut failed = 0;
        for call in calls {
            failed += usize::from(call.await.unwrap().is_err());
        }
        failed
    };
    assert_eq!(burst().await, 10);
    assert!(matches!(handle.phase(), Phase::Ejected { .. }));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(handle.phase(), Phase::HalfOpen);
    assert_eq!(burst().await, 1, "one probe");
    broken.store(false, Relaxed);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(burst().await, 0);
    assert_eq!(handle.phase(), Phase::Ready);
}

#[tokio::test(start_paused = true)]
async fn panic_mode_sends_requests_to_all_endpoints() {
    let options = HealthOptions::new().panic_below(50);
    let balance = BalanceBuilder::new()
        .health(options)
        .build([named("a"), named("b"), named("c")], RoundRobin::new());
    let eject = |key: &str| {
        let handle = balance.endpoint(key).unwrap();
        let now = clock::now();
        assert!(handle.health().eject_outlier(handle.age(now), &options));
        balance.0.group.recount();
    };
    eject("a");
    assert_eq!(shares(&balance, 10).await, of([("b", 5), ("c", 5)]));
    eject("b");
    let all = shares(&balance, 9).await;
    assert_eq!(all.len(), 3, "{all:?}");
    balance.set_health_options(options.panic_below(0));
    // Those that answered meanwhile are back.
    assert_eq!(balance.health_options(), options.panic_below(0));
}

#[tokio::test(start_paused = true)]
async fn slow_start_gives_endpoint_that_joins_a_small_share() {
    let options = HealthOptions::new().slow_start(Duration::from_secs(100));
    let balance = BalanceBuilder::new().health(options).build([named("a")], RoundRobin::new());
    balance.insert(named("b"));
    assert!(matches!(balance.status()[1].phase, Phase::SlowStart { ramp: 100 }));
    let early = shares(&balance, 500).await["b"];
    assert!((20..90).contains(&early), "{early}");
    tokio::time::advance(Duration::from_secs(100)).await;
    assert_eq!(shares(&balance, 100).await["b"], 50);
}

#[tokio::test(start_paused = true)]
async fn empty_set_fails_at_once_or_waits_for_an_endpoint() {
    let failing = BalanceBuilder::new().queue(QueueOptions::new(9));
    let failing = failing.build::<ErasedService, _>([], RoundRobin::new());
    let error = failing.oneshot(request()).await.unwrap_err();
    assert!(Error::find(&error).is_some_and(Error::is_overloaded));
    assert_eq!(queue_error(&error), None);

    let waiting = BalanceBuilder::new().queue(QueueOptions::new(9)).empty(EmptySet::Wait);
    let waiting = waiting.build([], RoundRobin::new());
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(waiting.clone().oneshot(request()))).collect();
    tokio::task::yield_now().await;
    assert_eq!(waiting.queue_stats().waiting, 3);
    waiting.insert(named("a"));
    for call in calls {
        assert_eq!(key_of(&call.await.unwrap().unwrap()), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn handling_of_requests_without_an_endpoint_is_changed() {
    let builder = BalanceBuilder::new().queue(QueueOptions::new(9)).empty(EmptySet::Wait);
    let balance = builder.build([], RoundRobin::new());
    assert_eq!(balance.empty(), EmptySet::Wait);
    let calls: Vec<_> = (0..3).map(|_| tokio::spawn(balance.clone().oneshot(request()))).collect();
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 3);
    let begin = tokio::time::Instant::now();
    balance.set_empty(EmptySet::Fail);
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), queue_error(&error)), (AttemptErrorKind::NoEndpoint, None));
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    balance.clone().oneshot(request()).await.unwrap_err();

    balance.set_empty(EmptySet::Wait);
    let call = tokio::spawn(balance.clone().oneshot(request()));
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 1);
    balance.insert(named("a"));
    assert_eq!(key_of(&call.await.unwrap().unwrap()), "a");
}

#[tokio::test(start_paused = true)]
async fn full_endpoint_does_not_send_requests_to_ejected_one() {
    let held = Held::default();
    let full = held.endpoint("full").limits(EndpointLimits::new().in_flight(1));
    let balance = Balance::round_robin([full, named("out")]);
    let handle = balance.endpoint("out").unwrap();
    assert!(handle.health().eject_outlier(handle.age(clock::now()), &HealthOptions::new()));
    let first = balance.clone().oneshot(request()).await.unwrap();
    assert_eq!(key_of(&first), "full");
    let error = balance.clone().oneshot(request()).await.unwrap_err();
    assert_eq!(queue_error(&error), Some(&QueueError::Full));
}

#[tokio::test]
async fn retry_goes_to_available_endpoint() {
    let dead = service_fn(|request: Request<Body>| async {
        let error = AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, "refused");
        Err::<Response<Body>, _>(error.with_request(request))
    });
    let dead = Endpoint::new("dead", ErasedService::new(dead));
    let balance = Balance::round_robin([dead, named("a")]);
    let retry = RetryLayer::new().layer(balance);
    for _ in 0..4 {
        assert_eq!(key_of(&retry.clone().oneshot(request()).await.unwrap()), "a");
    }
}
