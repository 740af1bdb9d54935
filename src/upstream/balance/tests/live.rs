//! Endpoints that are inserted or given again.

use super::*;

#[tokio::test]
async fn clone_that_is_inserted_keeps_its_endpoint_in_use() {
    let balance = Balance::round_robin([named("a"), named("b")]);
    let replaced = balance.insert(balance.endpoints()[0].clone().tier(1)).unwrap();
    assert_eq!((balance.status()[0].tier, replaced.key().as_str()), (1, "a"));
    assert_eq!(shares(&balance, 4).await, of([("a", 2), ("b", 2)]));
    // It does not end what an operator has set.
    balance.endpoint("a").unwrap().drain();
    balance.insert(balance.endpoints()[0].clone().tier(0));
    assert_eq!(shares(&balance, 2).await, of([("b", 2)]));
}

#[tokio::test]
async fn endpoint_that_is_given_again_is_in_use_again() {
    let [a, b] = ["a", "b"].map(named);
    let balance = Balance::round_robin([a.clone(), b.clone()]);
    balance.replace([a.clone()]);
    assert_eq!(b.handle().phase(), Phase::Draining);
    balance.replace([a, b]);
    assert_eq!(shares(&balance, 4).await, of([("a", 2), ("b", 2)]));
}

/// An endpoint that fails each request.
fn failing(key: &'static str) -> Endpoint<ErasedService> {
    let service = service_fn(|_: Request<Body>| async {
        let kind = AttemptErrorKind::ConnectionLost;
        Err::<Response<Body>, _>(AttemptError::new(kind, Delivery::MaybeSent, "lost"))
    });
    Endpoint::new(key, ErasedService::new(service))
}

#[tokio::test]
async fn endpoint_is_ejected_while_another_one_is_drained() {
    let balance = Balance::round_robin([failing("a"), named("b"), named("c")]);
    balance.endpoint("c").unwrap().drain();
    for _ in 0..10 {
        let _ = balance.clone().oneshot(request()).await;
    }
    let handle = balance.endpoint("a").unwrap();
    assert!(matches!(handle.phase(), Phase::Ejected { .. }), "{:?}", handle.phase());
    assert_eq!(shares(&balance, 4).await, of([("b", 4)]));
}

#[tokio::test]
async fn last_endpoint_that_is_not_drained_is_not_ejected() {
    let balance = Balance::round_robin([failing("a"), named("b"), named("c")]);
    balance.endpoint("b").unwrap().drain();
    balance.endpoint("c").unwrap().eject(Duration::MAX);
    for _ in 0..10 {
        balance.clone().oneshot(request()).await.unwrap_err();
    }
    assert!(balance.endpoint("a").unwrap().is_available());
}

#[tokio::test(start_paused = true)]
async fn share_of_panic_mode_is_that_of_endpoints_in_use() {
    let options = HealthOptions::new().panic_below(60);
    let balance = BalanceBuilder::new()
        .health(options)
        .build(["a", "b", "c", "d"].map(named), RoundRobin::new());
    balance.endpoint("a").unwrap().drain();
    balance.endpoint("b").unwrap().eject(Duration::MAX);
    let handle = balance.endpoint("c").unwrap();
    assert!(handle.health().eject_outlier(handle.age(clock::now()), &options));
    balance.0.group.recount();
    assert_eq!(shares(&balance, 4).await, of([("c", 2), ("d", 2)]));
}
