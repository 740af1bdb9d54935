//! Tests of applications that panic or cannot be built.

use super::*;

pub(super) async fn error_of_application_is_returned_to_caller<P: Placement>() {
    let pool: P = Settings::default().start();
    assert_eq!(pool.get("/fail").await.unwrap_err().to_string(), "failed");
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 0", "the worker keeps its instance");
    assert_eq!((pool.stats().served, pool.stats().panics), (2, 0));
}

pub(super) async fn panic_fails_one_request_and_replaces_one_instance<P: Placement>() {
    let pool: P = Settings::default().start();
    assert_eq!(text(&pool.get("/before").await.unwrap()), "/before 0");
    let panics = pool.begin("/panic").await;
    let after = pool.begin("/after").await;
    let error = panics.await.unwrap_err();
    P::assert_crashed(&error);
    assert_eq!(text(&after.await.unwrap()), "/after 1");
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.panics, stats.served), (1, 1, 3));
    pool.shutdown().await;
    assert_eq!(pool.builds(), 2);
}

pub(super) async fn panic_does_not_affect_other_workers<P: Placement>() {
    let builds = vec![Build::Succeed, Build::Succeed, Build::Hold];
    let pool: P = Settings { workers: 2, builds, ..Settings::default() }.start();
    assert!(pool.get("/panic").await.is_err());
    for _ in 0..20 {
        assert_eq!(pool.get("/").await.unwrap().status(), 200);
    }
    assert_eq!(pool.stats().workers, 1);
    pool.release("/build");
    pool.shutdown().await;
}

pub(super) async fn failed_rebuild_is_tried_again<P: Placement>() {
    let builds = vec![Build::Succeed, Build::Fail, Build::Panic];
    let pool: P = Settings { builds, ..Settings::default() }.start();
    assert!(pool.get("/panic").await.is_err());
    assert_eq!(text(&pool.get("/").await.unwrap()), "/ 3");
    pool.shutdown().await;
    assert_eq!(pool.builds(), 4);
}

pub(super) async fn request_waits_for_slow_rebuild<P: Placement>() {
    let builds = vec![Build::Succeed, Build::Hold];
    let mut pool: P = Settings { builds, ..Settings::default() }.start();
    assert!(pool.get("/panic").await.is_err());
    pool.built(1).await;
    let waits = pool.begin("/waits").await;
    assert_eq!((pool.stats().workers, pool.stats().queued), (0, 1));
    pool.release("/build");
    assert_eq!(text(&waits.await.unwrap()), "/waits 1");
}

/// Returns the error message of a pool of three workers that fails to start.
async fn start_error<P: Placement>(second: Build) -> String {
    let builds = vec![Build::Succeed, second, Build::Succeed];
    let error = P::start(Settings { workers: 3, builds, ..Settings::default() });
    let Err(error) = error else { panic!("the pool has started") };
    assert_eq!(error.kind(), Kind::Internal);
    let source = std::error::Error::source(&error).expect("the cause");
    source.to_string()
}

pub(super) async fn start_returns_error_of_build<P: Placement>() {
    assert!(start_error::<P>(Build::Fail).await.ends_with("no database"));
}

pub(super) async fn start_returns_panic_of_build<P: Placement>() {
    assert!(start_error::<P>(Build::Panic).await.contains("panicked: no database"));
}

pub(super) async fn start_refuses_zero_workers<P: Placement>() {
    let error = P::start(Settings { workers: 0, ..Settings::default() });
    let Err(error) = error else { panic!("the pool has started") };
    assert_eq!(cause::<NoWorkers>(&error.into()), NoWorkers);
}
