use std::{convert::Infallible, time::Duration};

use http::{StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{conn::Delivery, error::BoxError, policy::health::Phase};

type Outcome = Result<Response<Body>, BoxError>;

/// An endpoint that answers as `answer` does.
fn endpoint(
    answer: fn() -> Outcome,
) -> Endpoint<impl HttpService<Body, Future: Send> + Clone + Send + Sync + 'static> {
    Endpoint::new("a", service_fn(move |_: Request<Body>| std::future::ready(answer())))
}

fn unreachable() -> Outcome {
    Err(AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, "refused").into())
}

fn status(status: StatusCode, retry_after: Option<&str>) -> Outcome {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Some(after) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, after.parse().unwrap());
    }
    Ok(response)
}

async fn ask<S: HttpService<Body, Future: Send> + Clone>(endpoint: &Endpoint<S>) -> Option<u16> {
    let response = endpoint.clone().oneshot(Request::new(Body::empty())).await;
    response.ok().map(|response| response.status().as_u16())
}

#[tokio::test(start_paused = true)]
async fn failure_does_not_shorten_an_ejection_by_operator() {
    let endpoint = endpoint(unreachable);
    endpoint.handle().eject(Duration::from_secs(60));
    ask(&endpoint).await;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(matches!(endpoint.handle().phase(), Phase::Out { .. }));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(endpoint.handle().is_available());
}

#[tokio::test(start_paused = true)]
async fn success_ends_an_ejection_by_failures_but_not_by_operator() {
    let failing = endpoint(unreachable);
    assert_eq!(ask(&failing).await, None);
    assert!(!failing.handle().is_available());
    let errors = failing.handle().status(failing.place()).last_errors;
    assert_eq!(errors.len(), 1);
    assert_eq!((&*errors[0].text, errors[0].age), ("refused", Duration::ZERO));

    let (place, handle) = (failing.place.clone(), failing.handle.clone());
    let service = endpoint(|| status(StatusCode::OK, None)).service;
    let endpoint = Endpoint { service, place, handle };
    endpoint.handle().eject(Duration::from_secs(60));
    assert_eq!(ask(&endpoint).await, Some(200));
    assert!(matches!(endpoint.handle().phase(), Phase::Out { .. }));
    assert_eq!(endpoint.handle().failures(), 0);
    endpoint.handle().restore();
    assert_eq!(endpoint.handle().phase(), Phase::Ready);
}

#[tokio::test(start_paused = true)]
async fn retry_after_applies_to_status_503_only() {
    let busy = endpoint(|| status(StatusCode::SERVICE_UNAVAILABLE, Some("7")));
    assert_eq!(ask(&busy).await, Some(503));
    let status_now = busy.handle().status(busy.place());
    assert!(matches!(status_now.phase, Phase::BackingOff { .. }));
    assert_eq!(status_now.available_in, Some(Duration::from_secs(7)));
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(busy.handle().is_available());
    let limited = endpoint(|| status(StatusCode::TOO_MANY_REQUESTS, Some("7")));
    assert_eq!(ask(&limited).await, Some(429));
    assert!(limited.handle().is_available(), "it concerns one client");
}

#[tokio::test]
async fn server_errors_count_as_failures_by_option() {
    let failing = endpoint(|| status(StatusCode::BAD_GATEWAY, None));
    for _ in 0..9 {
        ask(&failing).await;
    }
    let state = failing.handle().status(failing.place());
    assert_eq!((state.failures, state.requests), (0, 9));
    assert!(state.success < 700 && failing.handle().is_available());
    let options = crate::policy::health::HealthOptions::new().fail_on_server_error(true);
    failing.handle().set_options(Arc::new(options));
    for _ in 0..5 {
        ask(&failing).await;
    }
    assert!(matches!(failing.handle().phase(), Phase::Ejected { .. }));
    assert_eq!(failing.handle().last_error().as_deref(), Some("status 502"));
}

#[tokio::test]
async fn limits_refuse_requests_until_response_ends() {
    let (tx, body) = Body::channel(None);
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let streaming = service_fn(move |_: Request<Body>| {
        let body = body.lock().unwrap().take().unwrap_or_else(Body::empty);
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let endpoint = Endpoint::new("a", streaming).limits(EndpointLimits::new().in_flight(1));
    let call = || endpoint.clone().oneshot(Request::new(Body::empty()));
    let response = call().await.unwrap();
    let error = call().await.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Busy);
    assert!(Error::find(&error).is_some_and(Error::is_overloaded));
    let handle = endpoint.handle().clone();
    let idle = tokio::spawn(async move { handle.idle().await });
    tx.finish(None);
    response.into_body().collect().await.unwrap();
    idle.await.unwrap();
    call().await.unwrap();
    endpoint.handle().set_limits(EndpointLimits::new().pending(0));
    call().await.unwrap_err();
    assert_eq!(endpoint.handle().in_flight(), 0);
}

#[tokio::test]
async fn response_that_breaks_within_its_body_counts_as_failure() {
    let cut = endpoint(|| {
        let (tx, body) = Body::channel(None);
        drop(tx);
        Ok(Response::new(body))
    });
    let response = cut.clone().oneshot(Request::new(Body::empty())).await.unwrap();
    assert_eq!(cut.handle().failures(), 0);
    response.into_body().collect().await.unwrap_err();
    assert!(cut.handle().last_error().unwrap().starts_with("response incomplete"));
    assert_eq!(cut.handle().failures(), 1);
    // One that the client gives up says nothing.
    drop(cut.clone().oneshot(Request::new(Body::empty())).await.unwrap());
    assert_eq!(cut.handle().failures(), 0, "its head was a success");
}
