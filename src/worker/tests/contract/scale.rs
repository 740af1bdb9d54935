//! Pools whose number of workers follows the demand.

use super::*;

/// Waits until the pool has `n` workers.
async fn has_workers<P: Placement>(pool: &P, n: usize) {
    let wait = async {
        while pool.stats().workers != n {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("the pool has another size");
}

pub(super) async fn worker_is_added_for_waiting_request_and_ended_when_idle<P: Placement>() {
    let settings = Settings { max_workers: 3, idle_timeout: P::SHORT, ..Settings::default() };
    let mut pool: P = settings.start();
    for round in 0..2 {
        let held = pool.begin("/hold").await;
        assert_eq!(pool.entered().await, "/hold");
        assert_eq!(text(&pool.get("/second").await.unwrap()), format!("/second {}", round + 1));
        assert_eq!(pool.entered().await, "/second");
        pool.release("/hold");
        assert_eq!(held.await.unwrap().status(), 200);
        has_workers(&pool, 1).await;
    }
    assert_eq!(pool.get("/").await.unwrap().status(), 200);
    pool.shutdown().await;
    assert_eq!((pool.builds(), pool.stats().panics), (3, 0));
}

pub(super) async fn pool_never_has_more_workers_than_its_maximum<P: Placement>() {
    let mut pool: P = Settings { max_workers: 3, ..Settings::default() }.start();
    let mut held = Vec::new();
    for path in ["/hold1", "/hold2", "/hold3", "/hold4"] {
        held.push(pool.begin(path).await);
    }
    for _ in 0..3 {
        pool.entered().await;
    }
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.busy, stats.queued), (3, 3, 1));
    for path in ["/hold1", "/hold2", "/hold3", "/hold4"] {
        pool.release(path);
    }
    for answer in held {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    pool.shutdown().await;
    assert_eq!(pool.builds(), 3);
}

pub(super) async fn workers_that_are_added_may_fail<P: Placement>() {
    let builds = vec![Build::Succeed, Build::Fail, Build::Succeed];
    let mut pool: P = Settings { max_workers: 2, builds, ..Settings::default() }.start();
    let held = pool.begin("/hold").await;
    pool.entered().await;
    assert_eq!(text(&pool.get("/second").await.unwrap()), "/second 2", "it is tried again");
    pool.release("/hold");
    assert_eq!(held.await.unwrap().status(), 200);
    pool.shutdown().await;
}
