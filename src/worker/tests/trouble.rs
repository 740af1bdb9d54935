//! Tests of applications that panic, hang or cannot be built.

use std::{future::pending, time::Instant};

use super::*;
use crate::peer::Deadline;

#[tokio::test]
async fn a_panic_costs_one_answer_and_one_instance() {
    let (gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let held = call(&threads, "/panic").await;
    let after = call(&threads, "/after").await;
    let error = held.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Internal);
    assert!(cause::<WorkerPanicked>(&error).message.contains("as it was told to"));
    assert_eq!(text(&after.await.unwrap()), "worker-0", "the same thread");
    assert_eq!(gate.builds(), 2);
    assert_eq!(threads.stats().panics, 1);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_cannot_be_rebuilt_is_tried_again() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let threads = threads(1, move || {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        assert_ne!(attempt, 1, "the second attempt fails");
        blocking(move |r: Request<Bytes>| {
            assert_ne!(r.uri().path(), "/panic");
            Response::new(attempt.to_string())
        })
    });
    let threads = threads.start().unwrap();
    assert!(threads.clone().oneshot(get("/panic")).await.is_err());
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "2");
    threads.shutdown(LONG).await.unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
}

#[test]
fn a_factory_that_panics_at_the_start_is_an_error_and_leaves_no_thread() {
    let alive = Arc::new(());
    let kept = alive.clone();
    let nth = AtomicUsize::new(0);
    let started = threads(3, move || {
        let _ = &kept;
        assert_ne!(nth.fetch_add(1, Ordering::SeqCst), 1, "no database");
        blocking(|_| Response::new(""))
    })
    .start();
    let error: BoxError = started.unwrap_err().into();
    assert_eq!(kind(&error), Kind::Internal);
    assert!(cause::<FactoryPanicked>(&error).message.contains("no database"));
    assert_eq!(Arc::strong_count(&alive), 1, "all threads have ended");
}

#[tokio::test]
async fn a_stuck_worker_is_replaced_and_ends_when_it_comes_back() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).queue(0).request_timeout(SHORT).start().unwrap();
    let error = call(&threads, "/hold").await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(cause::<RequestTimeout>(&error), RequestTimeout(SHORT));
    assert_eq!(gate.entered().await, "/hold");

    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "worker-1");
    let stats = threads.stats();
    assert_eq!((stats.workers, stats.stuck, stats.written_off), (1, 1, 1));
    assert_eq!(gate.builds(), 2);

    gate.release.send(()).unwrap();
    threads.shutdown(LONG).await.unwrap();
    assert_eq!(threads.stats().stuck, 0);
}

#[tokio::test]
async fn a_worker_that_is_stuck_for_a_client_that_left_is_replaced_too() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).queue(0).request_timeout(SHORT).start().unwrap();
    let left = call(&threads, "/hold").await;
    gate.entered().await;
    drop(left);
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "worker-1");
    gate.release.send(()).unwrap();
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn no_more_stuck_workers_are_replaced_than_the_bound_says() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).max_written_off(1).queue(4);
    let threads = threads.request_timeout(SHORT).queue_timeout(SHORT * 10).start().unwrap();
    for path in ["/hold1", "/hold2"] {
        assert_eq!(kind(&call(&threads, path).await.await.unwrap_err()), Kind::Timeout);
        assert_eq!(gate.entered().await, path);
    }
    // Both threads are stuck, and there is no third.
    let error = threads.clone().oneshot(get("/waits")).await.unwrap_err();
    assert_eq!(kind(&error), Kind::Overloaded);
    assert_eq!(threads.stats().stuck, 2);
    // The one that comes back fills the gap, rather than end.
    gate.release.send(()).unwrap();
    assert_eq!(threads.clone().oneshot(get("/works")).await.unwrap().status(), 200);
    let stats = threads.stats();
    assert_eq!((stats.workers, stats.stuck), (1, 1));
    assert_eq!(gate.builds(), 2);
    gate.release.send(()).unwrap();
    threads.shutdown(LONG).await.unwrap();
    // The place of each stuck request went and came back once.
    assert_eq!(threads.owner.0.lock().owed, 0);
    assert_eq!(threads.owner.0.places.available_permits(), 5);
}

#[tokio::test]
async fn a_deadline_cuts_the_answer_short_and_the_worker_not() {
    let (mut gate, app) = gated();
    let threads = threads(1, app).start().unwrap();
    let mut request = get("/hold");
    request.extensions_mut().insert(Deadline(Instant::now() + SHORT * 10));
    let error = threads.clone().ready().await.unwrap().call(request).await.unwrap_err();
    // Had it not begun by then, the queue would have answered.
    assert_eq!(kind(&error), Kind::Timeout);
    assert_eq!(gate.entered().await, "/hold");
    let after = call(&threads, "/after").await;
    gate.release.send(()).unwrap();
    assert_eq!(text(&after.await.unwrap()), "worker-0");
    assert_eq!(threads.stats().written_off, 0);
    threads.shutdown(LONG).await.unwrap();
}

/// Waits for the gate if the path says so, and answers with the path.
fn named()
-> (tokio_mpsc::UnboundedReceiver<()>, mpsc::Sender<()>, impl Fn() -> BlockingService<Handler>) {
    let (entered_tx, entered) = tokio_mpsc::unbounded_channel();
    let (release, held) = mpsc::channel();
    let held = Arc::new(Mutex::new(held));
    let factory = move || {
        let (entered, held) = (entered_tx.clone(), held.clone());
        blocking(Box::new(move |r: Request<Bytes>| {
            let path = r.uri().path().to_owned();
            if path.starts_with("/hold") {
                let _ = entered.send(());
                let _ = held.lock().unwrap().recv();
            }
            Response::new(path.into())
        }) as Handler)
    };
    (entered, release, factory)
}

/// S22: the worker goes on and answers, when its caller has been given an error, has left, or its
/// thread was written off. The next requests get their own answers and nobody else's.
#[tokio::test]
async fn s22_a_late_answer_is_never_given_to_another_request() {
    for written_off in [false, true] {
        for gone in [false, true] {
            let (mut entered, release, app) = named();
            let allowed = if written_off { SHORT * 10 } else { LONG };
            let threads = threads(1, app).request_timeout(allowed).start().unwrap();
            let mut request = get("/hold");
            if !written_off {
                request.extensions_mut().insert(Deadline(Instant::now() + SHORT * 10));
            }
            let held = threads.clone().ready().await.unwrap().call(request);
            entered.recv().await.unwrap();
            if gone {
                drop(held);
            } else {
                assert_eq!(kind(&held.await.unwrap_err()), Kind::Timeout);
            }
            // One waits while the late answer is given, one comes after it.
            let waiting = call(&threads, "/waiting").await;
            release.send(()).unwrap();
            assert_eq!(text(&waiting.await.unwrap()), "/waiting");
            assert_eq!(text(&threads.clone().oneshot(get("/after")).await.unwrap()), "/after");
            threads.shutdown(LONG).await.unwrap();
        }
    }
}

/// Sends when it is dropped.
struct Dropped(tokio_mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn work_that_awaits_is_dropped_at_its_timeout() {
    let (tx, mut dropped) = tokio_mpsc::unbounded_channel();
    let threads = threads(1, move || {
        let tx = tx.clone();
        tower::service_fn(move |r: Request| {
            let guard = Dropped(tx.clone());
            async move {
                if r.uri().path() == "/never" {
                    pending::<()>().await;
                }
                drop(guard);
                Ok::<_, BoxError>(Response::new(Body::from("fine")))
            }
        })
    });
    let threads = threads.request_timeout(SHORT).start().unwrap();
    let error = call(&threads, "/never").await.await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    dropped.recv().await.unwrap();
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "fine");
    threads.shutdown(LONG).await.unwrap();
}
