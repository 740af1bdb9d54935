//! Tests of permits, the queue and its bounds.

use super::*;

pub(super) async fn caller_waits_for_permit_and_is_refused_after_queue_timeout<P: Placement>() {
    // The requests that are held begin within it.
    let queue_timeout = Duration::from_secs(1);
    let settings = Settings { workers: 2, queue: 1, queue_timeout, ..Settings::default() };
    let mut pool: P = settings.start();
    let running = pool.occupy(2 * P::LANES).await;
    let queued = pool.begin("/queued").await;

    let mut waiting = pool.handle().clone();
    assert!(!waiting.is_ready(), "no permit is free");
    let refused = waiting.ready().await.unwrap().call(get("/refused")).await.unwrap_err();
    assert_eq!(kind(&refused), Kind::Overloaded);
    assert_eq!(cause::<QueueTimeout>(&refused), QueueTimeout);
    // The queued request has waited at least as long.
    assert_eq!(kind(&queued.await.unwrap_err()), Kind::Overloaded);

    pool.vacate(running).await;
    pool.shutdown().await;
    assert!(!pool.has_entered(), "no other request was run");
    assert_eq!(pool.stats().refused, 2);
}

pub(super) async fn request_that_may_not_wait_is_run_by_idle_worker<P: Placement>() {
    let mut pool: P = Settings { queue_timeout: Duration::ZERO, ..Settings::default() }.start();
    for _ in 0..20 {
        assert_eq!(pool.get("/").await.unwrap().status(), 200);
        pool.entered().await;
    }
    let held = pool.occupy(P::LANES).await;
    let refused = pool.get("/refused").await.unwrap_err();
    assert_eq!(kind(&refused), Kind::Overloaded);
    pool.vacate(held).await;
    pool.shutdown().await;
    assert!(!pool.has_entered(), "the one was not run");
}

pub(super) async fn freed_permit_goes_to_waiting_caller<P: Placement>() {
    let mut pool: P = Settings { queue: 0, ..Settings::default() }.start();
    let mut held = pool.occupy(P::LANES).await;
    let mut next = pool.handle().clone();
    assert!(!pool.handle().gate().is_open());
    assert!(!next.is_ready());
    pool.release("/hold0");
    assert_eq!(held.remove(0).await.unwrap().status(), 200);
    assert_eq!(next.ready().await.unwrap().call(get("/")).await.unwrap().status(), 200);
    (1..P::LANES).for_each(|n| pool.release(&format!("/hold{n}")));
}

pub(super) async fn reserved_permit_is_not_cloned_and_is_freed_with_its_handle<P: Placement>() {
    let mut pool: P = Settings { queue: 0, ..Settings::default() }.start();
    let others = pool.occupy(P::LANES - 1).await;
    let mut one = pool.handle().clone();
    assert!(one.is_ready());
    let mut two = one.clone();
    assert!(!two.is_ready());
    // A call of a handle that is not ready does not exceed the bound.
    let refused = pool.handle().clone().call(get("/")).await.unwrap_err();
    assert_eq!(kind(&refused), Kind::Overloaded);
    drop(one);
    assert_eq!(two.ready().await.unwrap().call(get("/")).await.unwrap().status(), 200);
    pool.vacate(others).await;
}

pub(super) async fn cancelled_request_is_never_run_and_frees_its_permit<P: Placement>() {
    let mut pool: P = Settings { queue: 1, ..Settings::default() }.start();
    let held = pool.occupy(P::LANES).await;
    let cancelled = pool.begin("/cancelled").await;
    assert_eq!(pool.stats().queued, 1);
    assert!(!pool.handle().clone().is_ready());
    drop(cancelled);
    assert_eq!((pool.stats().queued, pool.stats().cancelled), (0, 1));
    // Its permit is free at once, while the worker is still busy.
    let next = pool.begin("/next").await;
    pool.vacate(held).await;
    assert_eq!(next.await.unwrap().status(), 200);
    assert_eq!(pool.entered().await, "/next");
}

pub(super) async fn cancelled_requests_do_not_accumulate_in_queue<P: Placement>() {
    let mut pool: P = Settings { queue: 8, ..Settings::default() }.start();
    let held = pool.occupy(P::LANES).await;
    let waiting = [pool.begin("/a").await, pool.begin("/b").await];
    for n in 1..=1000 {
        drop(pool.begin("/cancelled").await);
        assert_eq!((pool.stats().queued, pool.stats().cancelled), (2, n));
    }
    pool.vacate(held).await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    pool.shutdown().await;
    assert_eq!(pool.stats().served, 2 + P::LANES as u64);
}

pub(super) async fn deadline_that_passes_in_queue_is_timeout<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.occupy(P::LANES).await;
    let error = pool.call(with_deadline("/late", P::SHORT)).await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(cause::<DeadlineExceeded>(&error), DeadlineExceeded);
    pool.vacate(held).await;
    pool.shutdown().await;
    assert!(!pool.has_entered(), "it was not run");
}

pub(super) async fn queue_timeout_before_deadline_is_overload<P: Placement>() {
    let mut pool: P = Settings { queue_timeout: P::SHORT * 5, ..Settings::default() }.start();
    let held = pool.occupy(P::LANES).await;
    let error = pool.call(with_deadline("/late", LONG)).await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Overloaded);
    pool.vacate(held).await;
}

pub(super) async fn request_past_its_deadline_is_not_run<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let error = pool.call(with_deadline("/late", Duration::ZERO)).await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    pool.shutdown().await;
    assert!(!pool.has_entered());
}

pub(super) async fn requests_are_begun_in_order<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let mut held = pool.occupy(P::LANES).await;
    // One lane runs them, while the others are busy.
    let mut answers = vec![held.pop().unwrap()];
    for path in ["/1", "/2", "/3"] {
        answers.push(pool.begin(path).await);
    }
    pool.release(&format!("/hold{}", P::LANES - 1));
    for answer in answers {
        answer.await.unwrap();
    }
    pool.vacate(held).await;
    for path in ["/1", "/2", "/3"] {
        assert_eq!(pool.entered().await, path);
    }
}

pub(super) async fn request_never_waits_for_busy_worker_while_another_is_idle<P: Placement>() {
    let mut pool: P = Settings { workers: 4, ..Settings::default() }.start();
    let workers = 4 * P::LANES;
    let mut held = Vec::new();
    for busy in 1..workers {
        let path = format!("/hold{busy}");
        held.push(pool.begin(&path).await);
        assert_eq!(pool.entered().await, path);
        // The idle worker runs the next requests at once.
        for _ in 0..50 {
            assert_eq!(pool.get("/").await.unwrap().status(), 200);
            assert_eq!(pool.entered().await, "/");
        }
        assert_eq!(pool.stats().busy, busy);
    }
    (1..workers).for_each(|n| pool.release(&format!("/hold{n}")));
    for answer in held {
        answer.await.unwrap();
    }
}

pub(super) async fn stats_count_all_outcomes<P: Placement>() {
    let mut pool: P = Settings { workers: 2, queue: 2, ..Settings::default() }.start();
    let workers = 2 * P::LANES;
    let idle = pool.stats();
    assert_eq!((idle.workers, idle.busy, idle.queued, idle.served), (workers, 0, 0, 0));
    assert_eq!((idle.queue_wait, idle.oldest_wait), (Duration::ZERO, Duration::ZERO));
    let held = pool.occupy(workers).await;
    let answers = [pool.begin("/a").await, pool.begin("/b").await];
    assert!(pool.handle().clone().call(get("/refused")).await.is_err());
    let full = pool.stats();
    assert_eq!((full.workers, full.busy, full.queued), (workers, workers, 2));
    assert_eq!((full.refused, full.served, full.stuck), (1, 0, 0));
    assert!(full.oldest_wait > Duration::ZERO);
    pool.vacate(held).await;
    for answer in answers {
        answer.await.unwrap();
    }
    let done = pool.stats();
    let served = workers as u64 + 2;
    assert_eq!((done.workers, done.busy, done.queued, done.served), (workers, 0, 0, served));
    assert_eq!((done.panics, done.abandoned, done.cancelled), (0, 0, 0));
    assert!(done.queue_wait > Duration::ZERO);
    assert_eq!(done.oldest_wait, Duration::ZERO);
}
