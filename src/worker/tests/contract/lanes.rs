//! Tests of workers that run several requests at a time: they are replaced as a whole.

use std::pin::pin;

use super::*;

pub(super) async fn crash_fails_all_requests_of_its_worker_that_cannot_be_sent_again<
    P: Placement,
>() {
    let mut pool: P = Settings::default().start();
    let mut request = get("/hold-post");
    *request.method_mut() = Method::POST;
    let posted = pool.call(request).await;
    assert_eq!(pool.entered().await, "/hold-post");
    let mut idempotent = pin!(pool.begin("/hold").await);
    assert_eq!(pool.entered().await, "/hold");
    for failed in [pool.begin("/panic").await, posted] {
        P::assert_crashed(&failed.await.unwrap_err());
    }
    let answer = loop {
        pool.release("/hold"); // more than once: the crashed worker has used one up
        tokio::select! {
            biased;
            answer = &mut idempotent => break answer,
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!(text(&answer.unwrap()), "/hold 1");
    pool.shutdown().await;
    assert_eq!(pool.builds(), 2);
}

pub(super) async fn reloaded_worker_completes_the_requests_of_all_its_lanes<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.occupy(P::LANES).await;
    pool.handle().reload().await.unwrap();
    for (n, answer) in held.into_iter().enumerate() {
        assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
        pool.release(&format!("/hold{n}"));
        assert_eq!(text(&answer.await.unwrap()), format!("/hold{n} 0"));
    }
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (2, 0));
}
