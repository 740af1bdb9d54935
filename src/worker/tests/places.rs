//! Tests of places, the queue and its timeout.

use std::{
    task::{Context, Waker},
    time::Instant,
};

use super::*;
use crate::peer::Deadline;

fn is_ready(handle: &mut Threads) -> bool {
    handle.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn when_every_place_is_taken_the_next_caller_waits_and_is_then_refused() {
    let (mut gate, app) = gated();
    let wait = Duration::from_millis(200);
    let threads = threads(2, app).queue(1).queue_timeout(wait).start().unwrap();
    let first = call(&threads, "/hold1").await;
    let second = call(&threads, "/hold2").await;
    gate.entered().await;
    gate.entered().await;
    let third = call(&threads, "/queued").await;

    let mut fourth = threads.clone();
    assert!(!is_ready(&mut fourth), "there is no place");
    let refused = fourth.ready().await.unwrap().call(get("/refused")).await.unwrap_err();
    assert_eq!(kind(&refused), Kind::Overloaded);
    assert_eq!(cause::<QueueTimeout>(&refused), QueueTimeout);
    // The queued one has waited for as long, and is not run either.
    assert_eq!(kind(&third.await.unwrap_err()), Kind::Overloaded);

    gate.release.send(()).unwrap();
    gate.release.send(()).unwrap();
    assert_eq!(first.await.unwrap().status(), 200);
    assert_eq!(second.await.unwrap().status(), 200);
    threads.shutdown(LONG).await.unwrap();
    assert!(gate.entered.try_recv().is_err(), "nothing else was run");
}

#[tokio::test]
async fn a_place_that_frees_in_time_goes_to_the_caller_who_waits() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).queue(0).start().unwrap();
    let held = call(&threads, "/hold").await;
    gate.entered().await;
    let mut next = threads.clone();
    assert!(!threads.gate().is_open());
    assert!(!is_ready(&mut next));
    gate.release.send(()).unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    assert_eq!(next.ready().await.unwrap().call(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_reserved_place_is_not_cloned_and_is_free_when_its_handle_is_dropped() {
    let (_gate, app) = gated();
    let threads = threads(1, app).queue(0).start().unwrap();
    let mut one = threads.clone();
    assert!(is_ready(&mut one));
    let mut two = one.clone();
    assert!(!is_ready(&mut two));
    // Called without being ready, a handle takes no place that is not there.
    let refused = threads.clone().call(get("/")).await.unwrap_err();
    assert_eq!(kind(&refused), Kind::Overloaded);
    drop(one);
    assert_eq!(two.ready().await.unwrap().call(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_whose_caller_is_gone_is_never_run() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).queue(1).start().unwrap();
    let held = call(&threads, "/hold").await;
    assert_eq!(gate.entered().await, "/hold");
    let gone = call(&threads, "/gone").await;
    assert_eq!(threads.stats().queued, 1);
    assert!(!is_ready(&mut threads.clone()));
    drop(gone);
    assert_eq!(threads.stats().queued, 0);
    // Its place is free at once, while the worker is still held.
    let next = call(&threads, "/next").await;
    gate.release.send(()).unwrap();
    assert_eq!(held.await.unwrap().status(), 200);
    assert_eq!(next.await.unwrap().status(), 200);
    assert_eq!(gate.entered().await, "/next");
}

#[tokio::test]
async fn callers_that_come_and_go_leave_nothing_behind_in_the_queue() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).queue(8).start().unwrap();
    let _held = call(&threads, "/hold").await;
    gate.entered().await;
    let waiting: Vec<_> = [call(&threads, "/a").await, call(&threads, "/b").await].into();
    for _ in 0..1000 {
        drop(call(&threads, "/gone").await);
        let len = threads.owner.0.lock().queue.len();
        assert!(len <= 5, "{len} jobs for 2 callers");
        assert_eq!(threads.stats().queued, 2);
    }
    gate.release.send(()).unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_no_capacity() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let held = call(&threads, "/hold").await;
    gate.entered().await;
    let mut late = get("/late");
    late.extensions_mut().insert(Deadline(Instant::now() + SHORT));
    let error = threads.clone().ready().await.unwrap().call(late).await.unwrap_err();
    assert_eq!(kind(&error), Kind::Overloaded);
    gate.release.send(()).unwrap();
    held.await.unwrap();
    threads.shutdown(LONG).await.unwrap();
    assert!(gate.entered.try_recv().is_err(), "it was not run");
}

#[tokio::test]
async fn a_request_that_is_too_late_already_is_not_run() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let mut late = get("/late");
    late.extensions_mut().insert(Deadline(Instant::now()));
    let error = threads.clone().ready().await.unwrap().call(late).await.unwrap_err();
    assert_eq!(kind(&error), Kind::Overloaded);
    threads.shutdown(LONG).await.unwrap();
    assert!(gate.entered.try_recv().is_err());
}

#[tokio::test]
async fn workers_take_requests_in_the_order_they_came() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let mut answers = vec![call(&threads, "/hold").await];
    gate.entered().await;
    for path in ["/1", "/2", "/3"] {
        answers.push(call(&threads, path).await);
    }
    gate.release.send(()).unwrap();
    for answer in answers {
        answer.await.unwrap();
    }
    for path in ["/1", "/2", "/3"] {
        assert_eq!(gate.entered().await, path);
    }
}
