use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode, header::HOST};
use tower::service_fn;

use super::*;
use crate::{
    body::Body,
    policy::{health::Phase, pick::RoundRobin},
    upstream::{AttemptError, AttemptErrorKind, Balance, Delivery, ErasedService},
};

fn endpoint(
    answer: impl Fn(Request<Body>) -> Result<Response<Body>, BoxError> + Clone + Send + Sync + 'static,
) -> Endpoint<ErasedService> {
    let service = service_fn(move |request| std::future::ready(answer(request)));
    Endpoint::new("a", ErasedService::new(service))
}

#[tokio::test]
async fn http_check_expects_status_and_text() {
    let answering = |status: u16, body: &'static str| {
        endpoint(move |request| {
            assert_eq!(request.uri(), "/health?full");
            assert_eq!(request.headers()[HOST], "internal");
            let response = Response::builder().status(status).body(Body::from(body));
            Ok(response?)
        })
    };
    let check = HttpCheck::new("/health?full").unwrap().host("internal".parse().unwrap());
    let result = async |check: &HttpCheck, endpoint: Endpoint<ErasedService>| {
        check.check(endpoint).await.map_err(|error| error.to_string())
    };
    assert_eq!(result(&check, answering(204, "")).await, Ok(()));
    assert_eq!(result(&check, answering(500, "")).await.unwrap_err(), "status 500, not 200..=399");
    let check = check.status(200..=200).body_contains("\"ok\"");
    assert_eq!(result(&check, answering(200, "{\"state\":\"ok\"}")).await, Ok(()));
    let error = result(&check, answering(200, "{\"state\":\"bad\"}")).await.unwrap_err();
    assert_eq!(error, "the body does not contain the expected text");
    assert!(result(&check, answering(204, "\"ok\"")).await.is_err());
    // It counts as no request.
    let idle = answering(200, "\"ok\"");
    result(&check, idle.clone()).await.unwrap();
    assert_eq!(idle.handle().status(idle.place()).requests, 0);
    for bad in ["", "health", "http://a/b", "/a b"] {
        assert!(HttpCheck::new(bad).is_none(), "{bad}");
    }
}

#[tokio::test]
async fn http_check_is_sent_again_if_its_idle_connection_was_closed() {
    for (stale, is_ok) in [(1, true), (2, false)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let endpoint = endpoint(move |request| {
            if count.fetch_add(1, Relaxed) == stale {
                return Ok(Response::new(Body::empty()));
            }
            let kind = AttemptErrorKind::StaleConnection;
            let error = AttemptError::new(kind, Delivery::MaybeSent, "closed");
            Err(error.with_request(request).into())
        });
        let result = HttpCheck::new("/").unwrap().check(endpoint).await;
        assert_eq!((result.is_ok(), sent.load(Relaxed)), (is_ok, 2));
    }
}

#[tokio::test]
async fn http_check_reads_a_bounded_part_of_the_body() {
    let long = endpoint(|_| {
        let mut text = vec![b'x'; MAX_CHECK_BODY];
        text.extend_from_slice(b"ok");
        Ok(Response::new(Body::from(text)))
    });
    let check = HttpCheck::new("/").unwrap().body_contains("ok");
    assert!(check.check(long).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn checks_take_endpoint_down_and_up_again() {
    let (is_up, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (state, count) = (is_up.clone(), checks.clone());
    let flaky = endpoint(move |_| {
        count.fetch_add(1, Relaxed);
        let ok = state.load(Relaxed);
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Ok(Response::builder().status(status).body(Body::empty())?)
    });
    let handle = flaky.handle().clone();
    let balance = Balance::new([flaky], RoundRobin::new());
    let options = CheckOptions::new().interval(Duration::from_secs(10)).jitter(50);
    let task = tokio::spawn(balance.check(HttpCheck::new("/").unwrap(), options));
    let after = async |n: usize| {
        let end = checks.load(Relaxed) + n;
        while checks.load(Relaxed) < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The result is entered after the response.
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let began = tokio::time::Instant::now();
    after(10).await;
    assert_eq!(handle.phase(), Phase::Ready);
    let elapsed = began.elapsed();
    assert!(elapsed > Duration::from_secs(50) && elapsed < Duration::from_secs(95), "{elapsed:?}");
    is_up.store(false, Relaxed);
    after(2).await;
    assert_eq!(handle.phase(), Phase::Ready);
    after(1).await;
    assert_eq!(handle.phase(), Phase::Down);
    assert_eq!(&*handle.last_error().unwrap(), "check: status 503, not 200..=399");
    is_up.store(true, Relaxed);
    after(1).await;
    assert_eq!(handle.phase(), Phase::Down);
    after(1).await;
    assert_eq!(handle.phase(), Phase::Ready);
    drop(balance);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn check_that_hangs_is_a_failure() {
    let hanging = endpoint(|_| Ok(Response::new(Body::empty())));
    let handle = hanging.handle().clone();
    let balance = Balance::new([hanging], RoundRobin::new());
    let hangs = |_: Endpoint<ErasedService>| std::future::pending::<Result<(), BoxError>>();
    let task = tokio::spawn(balance.check(hangs, CheckOptions::new()));
    while handle.phase() != Phase::Down {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(&*handle.last_error().unwrap(), "check: no result within 2s");
    drop(balance);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn check_that_panics_is_a_failure_and_runs_again() {
    let endpoint = endpoint(|_| Ok(Response::new(Body::empty())));
    let handle = endpoint.handle().clone();
    let balance = Balance::new([endpoint], RoundRobin::new());
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let panics = move |_: Endpoint<ErasedService>| {
        assert!(!broken.load(Relaxed), "no such table");
        std::future::ready(Ok::<_, BoxError>(()))
    };
    let task = tokio::spawn(balance.check(panics, CheckOptions::new()));
    while handle.phase() != Phase::Down {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(&*handle.last_error().unwrap(), "check: panicked: no such table");
    is_broken.store(false, Relaxed);
    while handle.phase() != Phase::Ready {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(balance);
    task.await.unwrap();
}
