//! Tests of applications that exceed a timeout.

use super::*;

pub(super) async fn stuck_worker_is_abandoned_and_replaced<P: Placement>() {
    let settings = Settings { queue: 0, request_timeout: P::SHORT, ..Settings::default() };
    let mut pool: P = settings.start();
    let error = pool.get("/hold").await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(cause::<RequestTimeout>(&error), RequestTimeout(P::SHORT));
    assert_eq!(pool.entered().await, "/hold");

    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.stuck, stats.abandoned), (1, 1, 1));
    assert_eq!(pool.builds(), 2);

    pool.release("/hold");
    pool.shutdown().await;
    assert_eq!(pool.stats().stuck, 0);
}

pub(super) async fn stuck_worker_is_replaced_after_its_caller_left<P: Placement>() {
    let settings = Settings { queue: 0, request_timeout: P::SHORT, ..Settings::default() };
    let mut pool: P = settings.start();
    let left = pool.begin("/hold").await;
    pool.entered().await;
    drop(left);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    pool.release("/hold");
    pool.shutdown().await;
}

/// Starts a pool of one worker. An abandoned worker is stuck in `/hold1`, and its successor in `/hold2`.
async fn two_stuck<P: Placement>() -> P {
    let settings = Settings { request_timeout: P::SHORT, max_abandoned: 1, ..Settings::default() };
    let mut pool: P = settings.start();
    for path in ["/hold1", "/hold2"] {
        assert_eq!(kind(&pool.get(path).await.unwrap_err()), Kind::Timeout);
        assert_eq!(pool.entered().await, path);
    }
    // There is no third worker, so this request waits in the queue, for longer than the grace period after the
    // timeout.
    let error = pool.call(with_deadline("/waits", P::SHORT * 5)).await.await.unwrap_err();
    assert_eq!(cause::<DeadlineExceeded>(&error), DeadlineExceeded);
    let stuck = async {
        while pool.stats().stuck < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, stuck).await.expect("both are stuck");
    let stats = pool.stats();
    assert_eq!((stats.workers, stats.stuck, stats.abandoned), (1, 2, 1));
    assert_eq!(pool.builds(), 2);
    pool
}

pub(super) async fn stuck_worker_keeps_its_slot_at_bound_of_abandoned<P: Placement>() {
    let pool: P = two_stuck().await;
    // The abandoned worker exits, so the other one is abandoned and replaced.
    pool.release("/hold1");
    assert_eq!(text(&pool.get("/works").await.unwrap()), "/works 2");
    assert_eq!((pool.stats().stuck, pool.stats().abandoned), (1, 2));
    pool.release("/hold2");
    pool.shutdown().await;
    assert_eq!(pool.stats().stuck, 0);
}

pub(super) async fn stuck_worker_at_bound_continues_when_its_request_ends<P: Placement>() {
    let pool: P = two_stuck().await;
    pool.release("/hold2");
    assert_eq!(text(&pool.get("/works").await.unwrap()), "/works 1");
    assert_eq!((pool.stats().stuck, pool.stats().abandoned), (1, 1));
    pool.release("/hold1");
    pool.shutdown().await;
    assert_eq!(pool.builds(), 2, "the instance is kept");
}

pub(super) async fn deadline_aborts_request_and_keeps_worker<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let error = pool.call(with_deadline("/hold", P::SHORT * 10)).await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(pool.entered().await, "/hold", "it was begun");
    let after = pool.begin("/after").await;
    pool.release("/hold");
    assert_eq!(text(&after.await.unwrap()), "/after 0");
    assert_eq!(pool.stats().abandoned, 0);
    pool.shutdown().await;
}

/// S22: a worker responds after its caller got a timeout or has left, or after it was abandoned.
pub(super) async fn late_answer_is_never_given_to_another_request<P: Placement>() {
    for abandoned in [false, true] {
        for gone in [false, true] {
            let request_timeout = if abandoned { P::SHORT * 10 } else { LONG };
            let mut pool: P = Settings { request_timeout, ..Settings::default() }.start();
            let deadline = if abandoned { LONG } else { P::SHORT * 10 };
            let held = pool.call(with_deadline("/hold", deadline)).await;
            pool.entered().await;
            if gone {
                drop(held);
            } else {
                assert_eq!(kind(&held.await.unwrap_err()), Kind::Timeout);
            }
            // One request is queued during the late response, and one follows it.
            let waiting = pool.begin("/waiting").await;
            pool.release("/hold");
            assert!(text(&waiting.await.unwrap()).starts_with("/waiting"));
            assert!(text(&pool.get("/after").await.unwrap()).starts_with("/after"));
            pool.shutdown().await;
        }
    }
}
