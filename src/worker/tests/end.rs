//! Tests of how a pool ends.

use super::*;

#[tokio::test]
async fn a_shutdown_drains_the_queue_and_takes_nothing_new() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let held = call(&threads, "/hold").await;
    gate.entered().await;
    let queued = [call(&threads, "/1").await, call(&threads, "/2").await];
    let mut reserved = threads.clone();
    reserved.ready().await.unwrap();
    threads.close();
    for mut handle in [threads.clone(), reserved] {
        let error = handle.ready().await.unwrap().call(get("/new")).await.unwrap_err();
        assert_eq!(kind(&error), Kind::Overloaded);
        assert_eq!(cause::<Closed>(&error), Closed);
    }
    gate.release.send(()).unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    for answer in queued {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    threads.shutdown(LONG).await.unwrap();
    assert_eq!(threads.stats().workers, 0);
}

#[tokio::test]
async fn a_shutdown_that_takes_too_long_says_so_and_refuses_what_is_queued() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let held = call(&threads, "/hold").await;
    gate.entered().await;
    let queued = call(&threads, "/queued").await;
    let error: BoxError = threads.shutdown(SHORT).await.unwrap_err().into();
    assert_eq!(kind(&error), Kind::Timeout);
    // The worker, and the watch that keeps its time.
    assert_eq!(cause::<StillRunning>(&error), StillRunning { threads: 2 });
    assert_eq!(kind(&queued.await.unwrap_err()), Kind::Overloaded);
    gate.release.send(()).unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn without_a_handle_the_work_is_finished_and_the_threads_end() {
    let (mut gate, app) = gated();
    let threads = threads(2, app).start().unwrap();
    let held = call(&threads, "/hold").await;
    gate.entered().await;
    let pool = threads.owner.0.clone();
    drop(threads);
    gate.release.send(()).unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    pool.ended().await;
    drop(pool); // it keeps the factory
    assert!(gate.entered.recv().await.is_none(), "every instance was dropped");
}

#[tokio::test]
async fn a_worker_that_waits_to_be_rebuilt_does_not_hold_up_the_end() {
    let built = AtomicUsize::new(0);
    let (tell, mut told) = tokio_mpsc::unbounded_channel();
    let threads = threads(1, move || {
        let attempt = built.fetch_add(1, Ordering::SeqCst);
        let _ = tell.send(attempt);
        assert_eq!(attempt, 0, "never again");
        blocking(|_| -> Response { panic!("once") })
    });
    let threads = threads.start().unwrap();
    assert!(threads.clone().oneshot(get("/")).await.is_err());
    while told.recv().await != Some(1) {}
    threads.shutdown(LONG).await.unwrap();
}
