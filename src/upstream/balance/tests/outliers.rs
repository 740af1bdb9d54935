//! Endpoints that perform much worse than the others.

use super::*;

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
