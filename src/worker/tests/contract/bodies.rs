//! Response bodies that a worker sends piece by piece.

use http::HeaderValue;
use http_body_util::BodyExt;

use super::*;
use crate::Body;

/// Starts a pool with one worker and no queue. Returns the body of the response to `path` after its first piece.
async fn open<P: Placement>(path: &str, request_timeout: Duration) -> (P, Body) {
    let pool: P = Settings { queue: 0, request_timeout, ..Settings::default() }.start();
    let mut body = pool.get(path).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    (pool, body)
}

/// Occupies all lanes but the one of the body, so that there is one permit.
async fn occupy_others<P: Placement>(pool: &mut P) -> Vec<<P::Handle as Service<Request>>::Future> {
    pool.entered().await;
    pool.occupy(P::LANES - 1).await
}

fn has_permit(pool: &impl Placement) -> bool {
    pool.handle().clone().is_ready()
}

pub(super) async fn permit_is_freed_when_streamed_body_has_ended<P: Placement>() {
    let (mut pool, body) = open::<P>("/stream", LONG).await;
    let others = occupy_others(&mut pool).await;
    assert_eq!(body.len(), P::STREAM_LEFT);
    assert!(!has_permit(&pool), "half of the body was sent");
    assert_eq!(pool.stats().busy, P::LANES);
    pool.release("/stream");
    let rest = body.collect().await.unwrap();
    let sum = rest.trailers().map(|trailers| trailers["x-sum"].clone());
    assert_eq!(sum, P::HAS_TRAILERS.then_some(HeaderValue::from_static("6")));
    assert_eq!(rest.to_bytes(), "def");
    assert!(has_permit(&pool));
    assert_eq!(pool.stats().busy, P::LANES - 1);
    pool.vacate(others).await;
    pool.shutdown().await;
}

pub(super) async fn departed_client_frees_worker_that_waits_for_its_application<P: Placement>() {
    let (mut pool, body) = open::<P>("/endless", LONG).await;
    let others = occupy_others(&mut pool).await;
    assert!(!has_permit(&pool));
    drop(body);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0");
    pool.vacate(others).await;
    pool.shutdown().await;
}

pub(super) async fn body_past_request_timeout_is_aborted<P: Placement>() {
    let (pool, mut body) = open::<P>("/endless", P::SHORT).await;
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(pool.get("/next").await.unwrap().status(), 200);
    pool.shutdown().await;
}

pub(super) async fn failed_body_ends_with_its_error<P: Placement>() {
    let (pool, mut body) = open::<P>("/break", LONG).await;
    pool.release("/break");
    P::assert_broken(&body.frame().await.unwrap().unwrap_err());
    pool.shutdown().await;
}

pub(super) async fn body_that_blocks_its_worker_is_aborted_and_worker_abandoned<P: Placement>() {
    let (pool, mut body) = open::<P>("/stream-hold", P::SHORT).await;
    assert_eq!(kind(&body.frame().await.unwrap().unwrap_err()), Kind::Timeout);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    assert_eq!(pool.stats().abandoned, 1);
    pool.release("/stream-hold");
    pool.shutdown().await;
}

pub(super) async fn panic_in_body_is_error_after_bytes_before_it<P: Placement>() {
    let (pool, mut body) = open::<P>("/stream-panic", LONG).await;
    let error = body.frame().await.unwrap().unwrap_err();
    P::assert_crashed(&error);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.shutdown().await;
}
