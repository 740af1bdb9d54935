//! Requests of workers that crash or stop.

use std::pin::pin;

use super::*;

#[tokio::test]
async fn killed_worker_loses_no_request_that_can_be_sent_again() {
    const KILLS: usize = 10;
    for method in [Method::GET, Method::POST] {
        let (on_ready, mut ready) = hook::<WorkerProcess>();
        let pool = InProcesses::start_with(vec![], |b| b.workers(2).on_ready(on_ready)).unwrap();
        let first = [next(&mut ready).await, next(&mut ready).await];
        assert_eq!(first.map(|w| w.generation), [0, 0]);
        let request = if method == Method::GET { || get("/load") } else { || post("/load") };
        let load = Load::start(pool.processes(), request);
        let mut victim = first[0];
        for _ in 0..KILLS {
            let served = pool.stats().served;
            while pool.stats().served < served + 50 {
                tokio::task::yield_now().await;
            }
            kill(victim.pid, Signal::KILL);
            victim = next(&mut ready).await;
        }
        let errors = load.end().await;
        // Each kill can fail at most the request that the worker runs.
        let most = if method == Method::GET { 0 } else { KILLS };
        assert!(errors.len() <= most, "{method}: {errors:?}");
        assert!(errors.iter().all(|e| kind(e) == Kind::BadGateway), "{method}: {errors:?}");
        pool.shutdown().await;
    }
}

#[tokio::test]
async fn request_that_ends_its_worker_is_sent_to_two_workers_at_most() {
    let pool = InProcesses::start_with(vec![], |b| b.workers(1)).unwrap();
    // The connection of an earlier request is open: the request is idempotent, and may be sent again.
    assert_eq!(text(&pool.get("/first").await.unwrap()), "/first 0");
    let error = pool.processes().clone().oneshot(get("/panic")).await.unwrap_err();
    assert_eq!(kind(&error), Kind::BadGateway);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 2");
    pool.shutdown().await;
}

#[tokio::test]
async fn request_of_crashed_worker_is_sent_again_after_its_queue_timeout() {
    // The requests that are held begin within it.
    let queue_timeout = Duration::from_secs(1);
    let mut pool = InProcesses::start_with(vec![], |b| b.workers(2).queue_timeout(queue_timeout));
    let pool = pool.as_mut().unwrap();
    let answer = pool.begin("/hold-pid").await;
    let busy = pid_in(&pool.entered().await);
    let held = pool.begin("/hold").await;
    pool.entered().await;
    // It was queued later.
    assert_eq!(kind(&pool.get("/late").await.unwrap_err()), Kind::Overloaded);
    pool.release("/hold");
    held.await.unwrap();
    kill(busy, Signal::KILL);
    let other = timeout(LONG, pool.entered()).await.expect("it is sent again");
    assert_ne!(pid_in(&other), busy);
    let mut answer = pin!(answer);
    let answer = loop {
        pool.release("/hold-pid"); // more than once: the killed worker has used one up
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            () = tokio::task::yield_now() => {}
        }
    };
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(pool.stats().refused, 1);
    pool.shutdown().await;
}

#[tokio::test]
async fn request_of_crashed_worker_is_sent_again_while_pool_closes() {
    for workers in [1, 2] {
        let mut pool = InProcesses::start_with(vec![], |b| b.workers(workers)).unwrap();
        let held = pool.begin("/hold-pid").await;
        let busy = pid_in(&pool.entered().await);
        pool.handle().close();
        kill(busy, Signal::KILL);
        assert_ne!(pid_in(&pool.entered().await), busy);
        let mut held = pin!(held);
        let answer = loop {
            pool.release("/hold-pid"); // more than once: the killed worker has used one up
            tokio::select! {
                biased;
                answer = &mut held => break answer,
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(answer.unwrap().status(), 200);
        pool.shutdown().await;
    }
}

#[tokio::test]
async fn stopped_worker_fails_its_request_and_is_killed_and_replaced() {
    let (on_ready, mut ready) = hook();
    let (on_exit, mut exits) = hook();
    let pool = InProcesses::start_with(vec![], |b| {
        b.workers(1)
            .request_timeout(InProcesses::SHORT)
            .stop_timeout(SHORT)
            .on_ready(on_ready)
            .on_exit(on_exit)
    });
    let pool = pool.unwrap();
    let stopped: WorkerProcess = next(&mut ready).await;
    stop(stopped.pid);
    let error = pool.get("/").await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(cause::<RequestTimeout>(&error), RequestTimeout(InProcesses::SHORT));
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    assert_eq!(next(&mut exits).await, (stopped, ExitStatus::Signal(9)));
    pool.shutdown().await;
}

#[tokio::test]
async fn request_of_dead_worker_ends_although_a_child_holds_its_connection() {
    let mut pool = InProcesses::start_with(vec![], |b| b.workers(1)).unwrap();
    let answer = pool.call(post("/fork-hold")).await;
    // The child has left the group of its parent, and holds the connection.
    let entered = pool.entered().await;
    let mut pids = entered.split(' ').skip(1).map(|pid| pid.parse::<u32>().unwrap());
    let (worker, child) = (pids.next().unwrap(), pids.next().unwrap());
    kill(worker, Signal::KILL);
    assert_eq!(kind(&answer.await.unwrap_err()), Kind::BadGateway);
    assert_eq!(text(&pool.get("/next").await.unwrap()), "/next 1");
    assert!(is_alive(child));
    kill(child, Signal::KILL);
    pool.shutdown().await;
}
