//! Requests that wait in the queue.

use super::*;
use crate::{
    peer::Deadline,
    policy::retry_budget::RetryBudget,
    upstream::{Priority, Retry},
};

const SEC: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn request_waits_in_queue_for_an_available_endpoint() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(2).timeout(Duration::from_secs(5)))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let call = || tokio::spawn(balance.clone().oneshot(request()));
    let first = balance.clone().oneshot(request()).await.unwrap();
    let (second, third) = (call(), call());
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 2);
    let refused = call().await.unwrap().unwrap_err();
    assert_eq!(queue_error(&refused), Some(&QueueError::Full));
    assert!(Error::find(&refused).is_some_and(Error::is_overloaded), "503");

    tokio::time::advance(Duration::from_secs(1)).await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(balance.queue_stats().waiting, 1);
    let late = third.await.unwrap().unwrap_err();
    assert_eq!(queue_error(&late), Some(&QueueError::Timeout(Duration::from_secs(5))));
    drop(second);
    let stats = balance.queue_stats();
    assert_eq!((stats.admitted, stats.refused, stats.timed_out), (1, 1, 1));
    assert!(stats.longest_wait >= Duration::from_secs(1) && stats.waiting == 0, "{stats:?}");
    held.end();
    balance.clone().oneshot(request()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn queue_serves_by_priority_then_in_order() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(4))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let mut current = Some(balance.clone().oneshot(request()).await.unwrap());
    let (order, mut calls) = (Arc::new(Mutex::new(Vec::new())), Vec::new());
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Low, Priority::High];
    for (n, priority) in classes.into_iter().enumerate() {
        let (balance, order) = (balance.clone(), order.clone());
        calls.push(tokio::spawn(async move {
            let mut request = request();
            request.extensions_mut().insert(priority);
            let response = balance.oneshot(request).await;
            order.lock().unwrap().push((n, response.is_ok()));
            drop(response);
        }));
        tokio::task::yield_now().await;
    }
    // The last of low priority was displaced by the fifth, of high priority.
    tokio::task::yield_now().await;
    assert_eq!(*order.lock().unwrap(), [(3, false)]);
    current.take();
    for call in calls {
        call.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert_eq!(order[1..], [(2, true), (4, true), (1, true), (0, true)]);
}

#[tokio::test(start_paused = true)]
async fn waiting_request_ends_with_its_deadline_and_leaves_when_dropped() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(1))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let first = balance.clone().oneshot(request()).await.unwrap();
    let mut late = request();
    late.extensions_mut().insert(Deadline(clock::now() + Duration::from_secs(1)));
    let error = balance.clone().oneshot(late).await.unwrap_err();
    assert!(Error::find(&error).is_some_and(Error::is_timeout), "504");

    let gone = tokio::spawn(balance.clone().oneshot(request()));
    tokio::task::yield_now().await;
    assert_eq!(balance.queue_stats().waiting, 1);
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!(balance.queue_stats().waiting, 0);
    drop(first);
    balance.clone().oneshot(request()).await.unwrap();
}

/// An endpoint whose responses have an endless body, and wait for a permit.
fn gated(key: &'static str) -> (Endpoint<ErasedService>, Arc<tokio::sync::Semaphore>) {
    let (gate, held) = (Arc::new(tokio::sync::Semaphore::new(0)), Held::default());
    let (permits, endpoint) = (gate.clone(), held.endpoint(key));
    let service = service_fn(move |request: Request<Body>| {
        let (permits, mut inner) = (permits.clone(), endpoint.service().clone());
        async move {
            permits.acquire().await.unwrap().forget();
            inner.call(request).await
        }
    });
    (Endpoint::new(key, ErasedService::new(service)), gate)
}

/// Lets other tasks run until none can continue.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn head_of_a_response_wakes_request_that_waits_for_its_place() {
    let (endpoint, gate) = gated("a");
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(9))
        .build([endpoint.limits(EndpointLimits::new().pending(1))], RoundRobin::new());
    let calls = [(); 3].map(|()| tokio::spawn(balance.clone().oneshot(request())));
    settle().await;
    assert_eq!(balance.queue_stats().waiting, 2);
    let (begin, mut responses) = (clock::now(), Vec::new());
    gate.add_permits(3);
    for call in calls {
        responses.push(call.await.unwrap().unwrap());
    }
    assert_eq!(clock::now() - begin, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn probe_that_succeeds_wakes_request_that_waits_for_its_endpoint() {
    let (held, (endpoint, gate)) = (Held::default(), gated("a"));
    let full = held.endpoint("full").limits(EndpointLimits::new().in_flight(1));
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(9))
        .build([full, endpoint], crate::policy::pick::First::new());
    let _first = balance.clone().oneshot(request()).await.unwrap();
    let handle = balance.endpoint("a").unwrap();
    assert!(handle.health().eject_outlier(handle.age(clock::now()), &HealthOptions::new()));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(handle.phase(), Phase::HalfOpen);
    let calls = [(); 3].map(|()| tokio::spawn(balance.clone().oneshot(request())));
    settle().await;
    assert_eq!((balance.queue_stats().waiting, handle.in_flight()), (2, 1));
    let (begin, mut responses) = (clock::now(), Vec::new());
    gate.add_permits(3);
    for call in calls {
        responses.push(call.await.unwrap().unwrap());
    }
    assert!(responses.iter().all(|response| key_of(response) == "a"));
    assert_eq!(clock::now() - begin, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn newcomer_does_not_overtake_request_that_was_called() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(1))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let first = balance.clone().oneshot(request()).await.unwrap();
    let second = tokio::spawn(balance.clone().oneshot(request()));
    settle().await;
    drop(first);
    // The task of the second request has not run since.
    assert_eq!(balance.queue_stats().waiting, 1);
    let refused = balance.clone().oneshot(request()).await.unwrap_err();
    assert_eq!(queue_error(&refused), Some(&QueueError::Full));
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn queued_requests_fail_at_once_when_the_last_endpoint_is_removed() {
    let held = Held::default();
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(9))
        .build([held.endpoint("a").limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    let _first = balance.clone().oneshot(request()).await.unwrap();
    let calls = [(); 3].map(|()| tokio::spawn(balance.clone().oneshot(request())));
    settle().await;
    assert_eq!(balance.queue_stats().waiting, 3);
    let begin = clock::now();
    balance.remove("a");
    // It finds others in the queue.
    let newcomer = balance.clone().oneshot(request()).await.unwrap_err();
    assert_eq!((newcomer.kind(), queue_error(&newcomer)), (AttemptErrorKind::NoEndpoint, None));
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), queue_error(&error)), (AttemptErrorKind::NoEndpoint, None));
    }
    assert_eq!((clock::now() - begin, balance.queue_stats().waiting), (Duration::ZERO, 0));
}

/// A balancer of one endpoint that takes one request at a time, answers none, and fails each at its deadline. Returns the
/// times that they had.
fn silent() -> (Balance<ErasedService>, Arc<Mutex<Vec<Duration>>>) {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let service = service_fn(move |request: Request<Body>| {
        let Deadline(at) = *request.extensions().get().unwrap();
        seen.lock().unwrap().push(at - clock::now());
        async move {
            tokio::time::sleep_until(at.into()).await;
            let kind = AttemptErrorKind::Timeout;
            let error = AttemptError::new(kind, Delivery::MaybeSent, "no response");
            Err::<Response<Body>, _>(error.with_request(request))
        }
    });
    let endpoint = Endpoint::new("a", ErasedService::new(service));
    let balance = BalanceBuilder::new()
        .queue(QueueOptions::new(9).timeout(10 * SEC))
        .build([endpoint.limits(EndpointLimits::new().in_flight(1))], RoundRobin::new());
    (balance, times)
}

fn due_in(time: Duration) -> Request<Body> {
    let mut request = request();
    request.extensions_mut().insert(Deadline(clock::now() + time));
    request
}

#[tokio::test(start_paused = true)]
async fn deadline_after_a_long_wait_in_the_queue_is_no_failure_of_the_endpoint() {
    for (held_for, failures) in [(900, 1), (100, 2)] {
        let (balance, times) = silent();
        let held_for = Duration::from_millis(held_for);
        let calls = [held_for, SEC].map(|time| tokio::spawn(balance.clone().oneshot(due_in(time))));
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap_err().kind(), AttemptErrorKind::Timeout);
        }
        assert_eq!(times.lock().unwrap()[0], held_for);
        assert_eq!(times.lock().unwrap().len(), 2, "both were sent");
        assert_eq!(balance.endpoint("a").unwrap().failures(), failures);
    }
}

type Retrying = Retry<Balance<ErasedService>>;

async fn fail(retry: &Retrying) -> Kind {
    let error = retry.clone().oneshot(request()).await.unwrap_err();
    Error::find(&*error).map_or(Kind::Internal, Error::kind)
}

#[tokio::test(start_paused = true)]
async fn attempt_timeout_begins_when_the_request_leaves_the_queue() {
    let budget = Arc::new(RetryBudget::new(0).min_per_second(0).burst(9));
    let layer = RetryLayer::new().attempts(3).budget(budget.clone()).attempt_timeout(SEC);
    let (balance, times) = silent();
    let first = tokio::spawn(balance.clone().oneshot(due_in(5 * SEC)));
    settle().await;
    let queued = tokio::spawn(layer.layer(balance.clone()).oneshot(request()));
    first.await.unwrap().unwrap_err();
    queued.await.unwrap().unwrap_err();
    assert_eq!(*times.lock().unwrap(), [5 * SEC, SEC], "each was sent once");
    let stats = balance.queue_stats();
    assert_eq!((stats.admitted, stats.timed_out), (1, 0));
    assert_eq!(balance.endpoint("a").unwrap().failures(), 2);
}

#[tokio::test(start_paused = true)]
async fn total_timeout_and_timeout_of_the_queue_end_the_wait_in_it_for_good() {
    let budget = Arc::new(RetryBudget::new(0).min_per_second(0).burst(9));
    let layer = RetryLayer::new().budget(budget.clone()).attempt_timeout(SEC);
    let total = layer.clone().total_timeout(3 * SEC);
    for (layer, kind) in [(layer, Kind::Overloaded), (total, Kind::Timeout)] {
        let (balance, times) = silent();
        let _first = tokio::spawn(balance.clone().oneshot(due_in(99 * SEC)));
        settle().await;
        assert_eq!(fail(&layer.layer(balance.clone())).await, kind);
        assert_eq!((balance.queue_stats().timed_out, budget.available()), (1, 9));
        assert_eq!(times.lock().unwrap().len(), 1, "only the first was sent");
    }
}

#[tokio::test(start_paused = true)]
async fn queue_of_a_balancer_within_an_endpoint_is_part_of_the_attempt() {
    let (inner, times) = silent();
    let _first = tokio::spawn(inner.clone().oneshot(due_in(99 * SEC)));
    settle().await;
    let inner = Endpoint::new("inner", ErasedService::new(inner));
    let outer = Balance::new([inner, named("b")], crate::policy::pick::First::new());
    let retry = RetryLayer::new().attempt_timeout(SEC).layer(outer);
    // Not sent, so that it can be sent to the other endpoint whatever its method.
    let post = Request::post("/").body(Body::empty()).unwrap();
    let response = retry.oneshot(post).await.unwrap();
    assert_eq!((key_of(&response), times.lock().unwrap().len()), ("b".into(), 1));
}
