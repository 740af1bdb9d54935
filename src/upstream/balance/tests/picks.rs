//! Endpoints that change between a pick and the request, and requests that are sent again.

use super::*;
use crate::policy::pick::Candidates;

/// Picks the first eligible endpoint. Does something after the first pick without a result, or with one.
struct Then<F> {
    after: Option<usize>,
    act: Mutex<Option<F>>,
}

impl<F: FnOnce() + Send> Pick for Then<F> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let picked = candidates.iter().position(|candidate| candidate.is_eligible());
        if picked == self.after
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
        picked
    }
}

#[tokio::test]
async fn request_is_sent_if_an_endpoint_becomes_free_after_the_pick() {
    let endpoint = Held::default().endpoint("a").limits(EndpointLimits::new().in_flight(1));
    let first = endpoint.clone().oneshot(request()).await.unwrap();
    let act = move || drop(first);
    let policy = Then { after: None, act: Mutex::new(Some(act)) };
    let balance = Balance::new([endpoint], policy);
    assert_eq!(key_of(&balance.clone().oneshot(request()).await.unwrap()), "a");
    assert!(balance.policy().act.lock().unwrap().is_none(), "the endpoint was not free before");
}

#[tokio::test]
async fn request_goes_elsewhere_if_its_endpoint_is_taken_out_or_drained_after_the_pick() {
    let ways: [fn(&EndpointHandle); 2] = [|a| a.eject(Duration::MAX), EndpointHandle::drain];
    for take_away in ways {
        let [a, b] = ["a", "b"].map(named);
        let handle = a.handle().clone();
        let act = move || take_away(&handle);
        let balance = Balance::new([a, b], Then { after: Some(0), act: Mutex::new(Some(act)) });
        assert_eq!(ask(&balance).await, "b");
        assert_eq!(balance.status()[0].in_flight, 0);
    }
}

#[tokio::test]
async fn policy_that_refuses_a_request_is_not_asked_for_ever() {
    struct Refuses;
    impl Pick for Refuses {
        fn pick(&self, _: Candidates<'_>) -> Option<usize> {
            None
        }
    }
    let balance = BalanceBuilder::new().queue(QueueOptions::new(9)).build([named("a")], Refuses);
    let error = balance.oneshot(request()).await.unwrap_err();
    assert_eq!((error.kind(), queue_error(&error)), (AttemptErrorKind::NoEndpoint, None));
}

/// An endpoint of whose connections the first one has been closed.
fn stale_at_first(key: &'static str) -> Endpoint<ErasedService> {
    let (is_first, inner) = (AtomicBool::new(true), named(key));
    let is_first = Arc::new(is_first);
    let service = service_fn(move |request: Request<Body>| {
        let (is_stale, mut inner) = (is_first.swap(false, Relaxed), inner.service().clone());
        async move {
            if !is_stale {
                return inner.call(request).await;
            }
            let kind = AttemptErrorKind::StaleConnection;
            Err(AttemptError::new(kind, Delivery::MaybeSent, "closed").with_request(request))
        }
    });
    Endpoint::new(key, ErasedService::new(service))
}

#[tokio::test]
async fn stale_connection_is_replaced_while_no_other_endpoint_is_available() {
    let keep_away: [fn(&EndpointHandle); 4] = [
        |b| b.drain(),
        |b| b.eject(Duration::MAX),
        |b| assert!(b.health().eject_outlier(b.age(clock::now()), &HealthOptions::new())),
        |b| b.set_limits(EndpointLimits::new().in_flight(0)),
    ];
    for (n, keep_away) in keep_away.into_iter().enumerate() {
        let balance = Balance::round_robin([stale_at_first("a"), named("b")]);
        keep_away(&balance.endpoint("b").unwrap());
        let response = RetryLayer::new().layer(balance).oneshot(request()).await;
        assert_eq!(response.map(|r| key_of(&r)).map_err(|e| e.to_string()), Ok("a".into()), "{n}");
    }
    let balance = Balance::round_robin([stale_at_first("a"), named("b")]);
    let response = RetryLayer::new().layer(balance).oneshot(request()).await.unwrap();
    assert_eq!(key_of(&response), "b");
}
