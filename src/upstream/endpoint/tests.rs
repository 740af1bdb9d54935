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
    assert_eq!(cut.handle().failures(), 1);
}

/// An attempt that is refused counts for a moment, in which another thread may begin to wait.
#[tokio::test]
async fn idle_does_not_miss_the_end_of_a_refused_attempt() {
    let endpoint =
        endpoint(|| status(StatusCode::OK, None)).limits(EndpointLimits::new().pending(0));
    let handle = endpoint.handle().clone();
    let refused = std::thread::spawn(move || {
        let options = handle.options();
        for _ in 0..300_000 {
            let attempt = handle.begin(clock::now(), &options, false, None::<&Arc<Group>>);
            assert!(attempt.is_none());
        }
    });
    let idle = async {
        while !refused.is_finished() {
            endpoint.handle().idle().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), idle).await.expect("it is woken");
    refused.join().unwrap();
}

#[tokio::test]
async fn endpoint_whose_responses_all_break_off_is_ejected() {
    let endpoint = Endpoint::new(
        "a",
        service_fn(|request: Request<Body>| {
            let (tx, body) = Body::channel(None);
            if request.uri().path() == "/whole" {
                tx.finish(None);
            }
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        }),
    );
    let ask = |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = endpoint.clone().oneshot(request);
        async { response.await.unwrap().into_body().collect().await.is_ok() }
    };
    for _ in 0..4 {
        assert!(!ask("/cut").await);
    }
    assert_eq!(endpoint.handle().failures(), 4);
    assert!(ask("/whole").await);
    assert_eq!(endpoint.handle().failures(), 0);
    for _ in 0..4 {
        assert!(!ask("/cut").await);
    }
    assert!(endpoint.handle().is_available());
    assert!(!ask("/cut").await);
    assert!(matches!(endpoint.handle().phase(), Phase::Ejected { .. }));
}

#[tokio::test(start_paused = true)]
async fn cancelled_attempt_raises_the_latency_to_its_duration() {
    let silent = service_fn(|_: Request<Body>| std::future::pending::<Outcome>());
    let endpoint = Endpoint::new("a", silent);
    let cancel_after = async |time| {
        let call = endpoint.clone().oneshot(Request::new(Body::empty()));
        tokio::time::timeout(time, call).await.unwrap_err();
        endpoint.handle().status(endpoint.place()).latency
    };
    let ms = Duration::from_millis;
    assert_eq!(cancel_after(ms(100)).await, ms(100));
    let known = cancel_after(ms(10)).await;
    assert!(known > ms(98), "a lower bound lowers nothing: {known:?}");
    assert_eq!(cancel_after(ms(500)).await, ms(500));
    assert_eq!(endpoint.handle().failures(), 0);
}

#[tokio::test]
async fn option_of_an_endpoint_does_not_change_its_clones() {
    let endpoint = endpoint(|| status(StatusCode::OK, None));
    let other = endpoint.clone().limits(EndpointLimits::new().in_flight(0)).weight(7).tier(1);
    assert_eq!(endpoint.handle().limits(), EndpointLimits::new());
    assert_eq!((endpoint.place().weight, endpoint.place().tier), (1, 0));
    assert_eq!((ask(&endpoint).await, ask(&other).await), (Some(200), None));
}

#[tokio::test(start_paused = true)]
async fn time_in_which_a_client_sends_is_no_latency_of_the_endpoint() {
    const SEC: Duration = Duration::from_secs(1);
    let reads_all = service_fn(|request: Request<Body>| async {
        request.into_body().collect().await?;
        tokio::time::sleep(SEC / 10).await;
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    let endpoint = Endpoint::new("a", reads_all);
    let latency = || endpoint.handle().status(endpoint.place()).latency;
    let begin = || {
        let (sender, body) = Body::channel(None);
        (sender, tokio::spawn(endpoint.clone().oneshot(Request::new(body))))
    };
    // A client that gives up.
    let (sender, call) = begin();
    tokio::time::sleep(60 * SEC).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!((latency(), endpoint.handle().in_flight()), (Duration::ZERO, 0));
    drop(sender);
    // A client that takes a minute.
    let (sender, call) = begin();
    tokio::time::sleep(60 * SEC).await;
    sender.finish(None);
    call.await.unwrap().unwrap();
    assert_eq!(latency(), SEC / 10);
}

#[tokio::test(start_paused = true)]
async fn latency_of_a_stream_in_both_directions_ends_with_the_head() {
    let (ms, (_sender, body)) = (Duration::from_millis, Body::channel(None));
    let echo = service_fn(|request: Request<Body>| async {
        tokio::time::sleep(Duration::from_millis(70)).await;
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let endpoint = Endpoint::new("a", echo);
    let response = endpoint.clone().oneshot(Request::new(body)).await.unwrap();
    assert_eq!(endpoint.handle().status(endpoint.place()).latency, ms(70));
    drop(response);
}

#[tokio::test]
async fn response_before_the_end_of_the_upload_is_no_fast_one() {
    let endpoint = endpoint(|| status(StatusCode::UNAUTHORIZED, None));
    let options = crate::policy::health::HealthOptions::new().outlier_latency(3);
    endpoint.handle().set_options(Arc::new(options));
    let (_sender, body) = Body::channel(None);
    endpoint.clone().oneshot(Request::new(body)).await.unwrap();
    let sample = endpoint.handle().take_sample();
    assert_eq!((sample.requests, sample.failures, sample.timed), (1, 0, 0));
    ask(&endpoint).await;
    assert_eq!(endpoint.handle().take_sample().timed, 1);
}
