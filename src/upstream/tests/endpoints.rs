//! Endpoints behind a balancer: picks, ejections and load.

use super::*;

#[tokio::test]
async fn balance_without_endpoints_fails_at_once() {
    let error = balance(&[]).oneshot(request(Method::GET)).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::NoEndpoint, Delivery::NotSent));
    let error = send(RetryLayer::new().layer(balance(&[])), Method::GET).await.unwrap_err();
    assert!(Error::find(&*error).is_some_and(Error::is_overloaded));
}

#[tokio::test]
async fn balance_asks_policy_once_for_each_attempt() {
    struct Counting(RoundRobin, Arc<AtomicUsize>);
    impl Pick for Counting {
        fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
            self.1.fetch_add(1, Relaxed);
            self.0.pick(candidates)
        }
    }
    let dead = [0; 2].map(|_| Scripted::new([not_sent as _, not_sent as _]));
    let picks = Arc::new(AtomicUsize::new(0));
    let endpoints = [0, 1].map(|i| Endpoint::new(i.to_string(), dead[i].clone()));
    let balance = Balance::new(endpoints, Counting(RoundRobin::new(), picks.clone()));
    let retry = RetryLayer::new().attempts(2).layer(balance);
    // In the second round both are ejected.
    for round in 1..=2 {
        send(retry.clone(), Method::GET).await.unwrap_err();
        assert_eq!(picks.load(Relaxed), 2 * round);
    }
    assert_eq!(dead.map(|d| d.calls()), [2, 2]);
}

#[tokio::test]
async fn balance_refuses_pick_of_tried_endpoint() {
    struct First;
    impl Pick for First {
        fn pick(&self, _: Candidates<'_>) -> Option<usize> {
            Some(0)
        }
    }
    let dead = Scripted::new([not_sent as _]);
    let endpoints = ["a", "b"].map(|key| Endpoint::new(key, dead.clone()));
    let retry = RetryLayer::new().layer(Balance::new(endpoints, First));
    send(retry, Method::GET).await.unwrap_err();
    assert_eq!(dead.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn unreachable_endpoint_is_ejected_until_it_is_tried_again() {
    let (dead, alive) = (Scripted::new([not_sent as _]), Scripted::new([]));
    let balance = balance(&[&dead, &alive]);
    let retry = RetryLayer::new().layer(balance.clone());
    let handle = balance.endpoints()[0].handle().clone();
    for _ in 0..4 {
        assert_eq!(send(retry.clone(), Method::GET).await.unwrap(), 200);
        assert!(!handle.is_available());
    }
    assert_eq!((dead.calls(), handle.failures()), (1, 1));
    assert!(handle.last_error().unwrap().contains("refused"));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(handle.is_available());
    for _ in 0..2 {
        assert_eq!(send(retry.clone(), Method::GET).await.unwrap(), 200);
    }
    assert_eq!((dead.calls(), handle.failures()), (2, 0));
}

#[tokio::test]
async fn handle_ejects_and_restores_endpoint() {
    let (one, two) = (Scripted::new([]), Scripted::new([]));
    let balance = balance(&[&one, &two]);
    balance.endpoints()[0].handle().eject(Duration::MAX);
    for _ in 0..4 {
        send(balance.clone(), Method::GET).await.unwrap();
    }
    assert_eq!((one.calls(), two.calls()), (0, 4));
    balance.endpoints()[0].handle().restore();
    for _ in 0..4 {
        send(balance.clone(), Method::GET).await.unwrap();
    }
    assert_eq!((one.calls(), two.calls()), (2, 6));
}

#[tokio::test]
async fn endpoint_that_fails_to_become_ready_is_ejected_and_request_goes_elsewhere() {
    let broken = Scripted {
        script: Arc::new(Script { fails_to_become_ready: true, ..Script::default() }),
        is_ready: false,
    };
    let balance = balance(&[&broken, &Scripted::new([])]);
    let (_tx, body) = Body::channel(None);
    let retry = RetryLayer::new().layer(balance.clone());
    let streamed = Request::post("/").body(body).unwrap();
    assert_eq!(retry.oneshot(streamed).await.unwrap().status(), 200);
    assert!(!balance.endpoints()[0].handle().is_available());
}

#[tokio::test(start_paused = true)]
async fn endpoint_that_is_not_ready_in_time_is_skipped_but_not_ejected() {
    let busy = Scripted {
        script: Arc::new(Script { never_ready: true, ..Script::default() }),
        is_ready: false,
    };
    let balance = balance(&[&busy, &Scripted::new([])]);
    let started = tokio::time::Instant::now();
    let retry = RetryLayer::new().layer(balance.clone());
    assert_eq!(send(retry, Method::POST).await.unwrap(), 200);
    assert_eq!(started.elapsed(), READY_TIMEOUT);
    assert!(balance.endpoints()[0].handle().is_available());
    let error = balance.endpoints()[0].clone().oneshot(request(Method::GET)).await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Busy);
    assert!(Error::find(&error).is_some_and(Error::is_overloaded));
}

#[tokio::test]
async fn request_is_in_flight_until_response_body_ends() {
    let senders = Arc::new(Mutex::new(VecDeque::new()));
    let bodies = senders.clone();
    let streaming = service_fn(move |_: Request<Body>| {
        let (tx, body) = Body::channel(None);
        bodies.lock().unwrap().push_back(tx);
        async { Ok::<_, Infallible>(Response::new(body)) }
    });
    let endpoint = Endpoint::new("streaming", streaming);
    let call = || endpoint.clone().oneshot(request(Method::GET));
    let in_flight = || endpoint.handle().in_flight();

    let response = call().await.unwrap();
    assert_eq!(in_flight(), 1);
    senders.lock().unwrap().pop_front().unwrap().finish(None);
    response.into_body().collect().await.unwrap();
    assert_eq!(in_flight(), 0);

    let response = call().await.unwrap();
    assert_eq!(in_flight(), 1);
    drop(response);
    assert_eq!(in_flight(), 0);

    // Dropped before it was answered, and answered with a complete body.
    let mut endpoint = Endpoint::new("complete", ErasedService::new(Scripted::new([])));
    let call = endpoint.call(request(Method::GET));
    assert_eq!(endpoint.handle().in_flight(), 1);
    drop(call);
    assert_eq!(endpoint.handle().in_flight(), 0);
    let response = endpoint.call(request(Method::GET)).await.unwrap();
    assert_eq!((response.status().as_u16(), endpoint.handle().in_flight()), (200, 0));
}

#[tokio::test]
async fn least_outstanding_sees_load_of_endpoints() {
    let never =
        service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let endpoints = ["a", "b", "c"].map(|key| Endpoint::new(key, never));
    let policy = crate::policy::pick::LeastOutstanding::new();
    let mut balance = Balance::new(endpoints, policy);
    let calls: Vec<_> = (0..7).map(|_| balance.call(request(Method::GET))).collect();
    let mut load: Vec<_> = balance.endpoints().iter().map(|e| e.handle().in_flight()).collect();
    load.sort_unstable();
    assert_eq!(load, [2, 2, 3]);
    drop(calls);
}
