//! Endpoints that are inserted or given again.

use futures_util::FutureExt;

use super::*;
use crate::policy::pick::{Candidates, Prepared};

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

/// A policy that calls a function when it prepares the next set, before that set is in use.
#[derive(Default)]
struct Preparing(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Pick for Preparing {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        candidates.iter().position(|candidate| candidate.is_eligible())
    }

    fn prepare(&self, _: Candidates<'_>) -> Prepared {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
        Prepared::default()
    }
}

impl Preparing {
    fn call(&self, call: impl FnOnce() + Send + 'static) {
        *self.0.lock().unwrap() = Some(Box::new(call));
    }
}

#[tokio::test]
async fn endpoint_serves_until_the_set_without_it_is_in_use() {
    type Change = fn(&Balance<ErasedService, Preparing>);
    let replace: Change = |balance| assert_eq!(balance.replace([named("b")]).len(), 1);
    let insert: Change = |balance| assert!(balance.insert(named("a")).is_some());
    let remove: Change = |balance| assert!(balance.remove("a").is_some());
    for change in [replace, insert, remove] {
        let balance = Balance::new([named("a")], Preparing::default());
        let old = balance.endpoint("a").unwrap();
        let (in_use, results) = (balance.clone(), Arc::new(Mutex::new(Vec::new())));
        let pushed = results.clone();
        balance.policy().call(move || {
            let asked = in_use.oneshot(request()).now_or_never();
            pushed.lock().unwrap().push(asked.expect("endpoints answer at once"));
        });
        change(&balance);
        let response = results.lock().unwrap().pop().expect("the set was prepared").unwrap();
        assert_eq!(key_of(&response), "a");
        assert_eq!(old.phase(), Phase::Draining);
    }
}

#[tokio::test]
async fn panic_of_a_policy_leaves_the_set_in_use() {
    let balance = Balance::new([named("a")], Preparing::default());
    balance.policy().call(|| panic!("no table for this set"));
    let change = std::panic::AssertUnwindSafe(|| balance.replace([named("b")]));
    assert!(std::panic::catch_unwind(change).is_err());
    assert_eq!(ask(&balance).await, "a");
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
