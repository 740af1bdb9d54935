//! Tests of the end of a pool.

use super::*;

pub(super) async fn closed_pool_drains_its_queue_and_refuses_new_requests<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.occupy(P::LANES).await;
    let queued = [pool.begin("/1").await, pool.begin("/2").await];
    let mut reserved = pool.handle().clone();
    reserved.ready().await.unwrap();
    pool.handle().close();
    for mut handle in [pool.handle().clone(), reserved] {
        let error = handle.ready().await.unwrap().call(get("/new")).await.unwrap_err();
        assert_eq!(kind(&error), Kind::Overloaded);
        assert_eq!(cause::<Closed>(&error), Closed);
    }
    pool.vacate(held).await;
    for answer in queued {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    pool.shutdown().await;
    assert_eq!((pool.stats().workers, pool.stats().refused), (0, 2));
}

pub(super) async fn shutdown_past_its_timeout_refuses_queued_requests<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.occupy(P::LANES).await;
    let queued = pool.begin("/queued").await;
    let error: BoxError = pool.handle().shutdown(P::SHORT).await.unwrap_err().into();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(cause::<StillRunning>(&error), StillRunning { workers: P::LANES });
    let error = queued.await.unwrap_err();
    assert_eq!(cause::<Closed>(&error), Closed);
    pool.vacate(held).await;
    pool.shutdown().await;
}

pub(super) async fn dropped_handles_let_work_finish_and_workers_exit<P: Placement>() {
    let mut pool: P = Settings { workers: 2, ..Settings::default() }.start();
    let held = pool.begin("/hold").await;
    pool.entered().await;
    let queued = pool.begin("/queued").await;
    pool.release("/hold");
    drop(pool);
    assert_eq!(held.await.unwrap().status(), 200);
    assert_eq!(queued.await.unwrap().status(), 200);
}

pub(super) async fn closed_pool_restarts_worker_for_queued_requests<P: Placement>() {
    let mut pool: P = Settings::default().start();
    let held = pool.begin("/hold").await;
    pool.entered().await;
    let queued = [pool.begin("/panic").await, pool.begin("/after").await];
    pool.handle().close();
    pool.release("/hold");
    assert_eq!(held.await.unwrap().status(), 200);
    let [panics, after] = queued;
    P::assert_crashed(&panics.await.unwrap_err());
    assert_eq!(text(&after.await.unwrap()), "/after 1");
    pool.shutdown().await;
}

pub(super) async fn pause_before_restart_does_not_delay_shutdown<P: Placement>() {
    let mut builds = vec![Build::Fail; 1000];
    builds[0] = Build::Succeed;
    let mut pool: P = Settings { builds, ..Settings::default() }.start();
    assert!(pool.get("/panic").await.is_err());
    pool.built(2).await;
    pool.shutdown().await;
    let builds = pool.builds();
    assert!(builds < 10, "{builds} builds without a pause");
}

pub(super) async fn abandoned_worker_is_awaited_by_shutdown<P: Placement>() {
    let pool: P = Settings { request_timeout: P::SHORT, ..Settings::default() }.start();
    assert!(pool.get("/hold").await.is_err());
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    let others_end = async {
        loop {
            let error: BoxError = pool.handle().shutdown(P::SHORT).await.unwrap_err().into();
            match cause::<StillRunning>(&error).workers {
                1 => break,
                n => assert_eq!(n, 2, "its replacement, on a busy machine"),
            }
        }
    };
    tokio::time::timeout(LONG, others_end).await.expect("the replacement ends");
    pool.release("/hold");
    pool.shutdown().await;
}
