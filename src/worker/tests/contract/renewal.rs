//! Tests of placements that replace workers: reloads and recycling.

use super::{load::Load, *};

fn load() -> Request {
    let mut request = get("/load");
    *request.method_mut() = Method::POST;
    request
}

pub(super) async fn reload_replaces_all_workers_and_loses_no_request<P: Placement>() {
    let pool: P = Settings { workers: 2, ..Settings::default() }.start();
    let load = Load::start(pool.handle(), load);
    for generation in 1..=2 {
        pool.handle().reload().await.unwrap();
        assert_eq!((pool.stats().generation, pool.stats().workers), (generation, 2 * P::LANES));
    }
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (6, 0));
}

pub(super) async fn failed_reload_keeps_the_old_workers_and_loses_no_request<P: Placement>() {
    let builds = vec![Build::Succeed, Build::Succeed, Build::Fail];
    let pool: P = Settings { workers: 2, builds, ..Settings::default() }.start();
    let load = Load::start(pool.handle(), load);
    let error: BoxError = pool.handle().reload().await.unwrap_err().into();
    assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::Exited);
    assert_eq!((pool.stats().generation, pool.stats().workers), (0, 2 * P::LANES));
    pool.handle().reload().await.unwrap();
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.shutdown().await;
}

pub(super) async fn reload_does_not_wait_for_a_request_of_the_generation_before<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.begin("/hold").await;
    pool.entered().await;
    for _ in 0..2 {
        pool.handle().reload().await.unwrap();
    }
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 2");
    pool.release("/hold");
    assert_eq!(text(&held.await.unwrap()), "/hold 0");
    pool.shutdown().await;
}

pub(super) async fn recycled_workers_lose_no_request<P: Placement>() {
    let recycle_after = Some(20);
    let pool: P = Settings { workers: 2, recycle_after, ..Settings::default() }.start();
    let load = Load::start(pool.handle(), load);
    while pool.stats().recycled < 4 * P::LANES as u64 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.stats().workers, 2 * P::LANES, "ready workers never fall below the minimum");
    let errors = load.end().await;
    assert!(errors.is_empty(), "{errors:?}");
    pool.shutdown().await;
    assert_eq!(pool.stats().panics, 0);
}
