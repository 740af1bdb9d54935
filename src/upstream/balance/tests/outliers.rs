//! Endpoints that perform much worse than the others.

use super::*;
use crate::policy::backoff::Backoff;

#[tokio::test(start_paused = true)]
async fn outlier_is_ejected_when_endpoints_are_compared() {
    let failing = service_fn(|_: Request<Body>| async {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response.headers_mut().insert("x-key", HeaderValue::from_static("bad"));
        Ok::<_, Infallible>(response)
    });
    let bad = Endpoint::new("bad", ErasedService::new(failing));
    let options = HealthOptions::new().outlier_success(80);
    let balance = BalanceBuilder::new()
        .health(options)
        .build([named("a"), named("b"), bad], RoundRobin::new());
    assert_eq!(shares(&balance, 90).await["bad"], 30);
    tokio::time::advance(Duration::from_secs(10)).await;
    ask(&balance).await;
    assert_eq!(shares(&balance, 90).await.get("bad"), None);
    let error = balance.endpoint("bad").unwrap().last_error().unwrap();
    assert!(error.contains("30 of 30 requests failed"), "{error}");
}

/// An endpoint that answers with its key after a delay.
fn delayed(key: &'static str, millis: u64) -> Endpoint<ErasedService> {
    let service = service_fn(move |_: Request<Body>| async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("x-key", HeaderValue::from_static(key));
        Ok::<_, Infallible>(response)
    });
    Endpoint::new(key, ErasedService::new(service))
}

#[tokio::test(start_paused = true)]
async fn outlier_by_latency_is_ejected_when_endpoints_are_compared() {
    let long = Duration::from_secs(60);
    let options = HealthOptions::new().outlier_latency(4).ejection(Backoff::new(long, long));
    let endpoints =
        [delayed("a", 10), delayed("b", 10), delayed("slower", 25), delayed("slow", 100)];
    let balance = BalanceBuilder::new().health(options).build(endpoints, RoundRobin::new());
    assert_eq!(shares(&balance, 80).await["slow"], 20);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(shares(&balance, 90).await, of([("a", 30), ("b", 30), ("slower", 30)]));
    let slow = balance.endpoint("slow").unwrap();
    assert!(matches!(slow.phase(), Phase::Ejected { .. }), "{:?}", slow.phase());
    let error = slow.last_error().unwrap();
    assert!(error.contains("0 of 20 requests failed, mean latency 10"), "{error}");
    assert!(balance.endpoint("slower").unwrap().is_available(), "it is below the factor");
}
