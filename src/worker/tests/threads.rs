//! Tests of properties that only threads have.

use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::{sync::mpsc, time::timeout};
use tower::{Service, ServiceExt};

use super::{super::*, *};
use crate::body::FileSlice;

#[test]
fn handle_and_future_are_send() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Threads>();
    fn moves<T: Send + 'static>() {}
    moves::<ResponseFuture>();
    moves::<ThreadsBuilder<axum::Router>>();
}

#[tokio::test]
async fn instance_is_built_once_on_each_thread_and_need_not_be_send() {
    let builds = Arc::new(AtomicUsize::new(0));
    let counted = builds.clone();
    let threads = threads(2, move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let here = std::thread::current().id();
        let calls = Rc::new(Cell::new(0));
        blocking(move |_| {
            assert_eq!(std::thread::current().id(), here);
            calls.set(calls.get() + 1);
            Response::new(calls.get().to_string())
        })
    });
    let threads = threads.start().unwrap();
    for _ in 0..20 {
        let response = threads.clone().oneshot(get("/")).await.unwrap();
        assert!((1..=20).contains(&text(&response).parse::<u32>().unwrap()));
    }
    assert_eq!(builds.load(Ordering::SeqCst), 2);
    assert_eq!(threads.stats().served, 20);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn reload_fails_while_factories_of_earlier_ones_block() {
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let (blocked, builds) = (Mutex::new(blocked), AtomicUsize::new(0));
    let threads = threads(1, move || {
        if builds.fetch_add(1, Ordering::SeqCst) > 0 {
            let _ = blocked.lock().unwrap().recv(); // an error: the sender was dropped
        }
        blocking(|_| Response::new("served"))
    });
    let threads = threads.start().unwrap();
    for _ in 0..2 {
        let failed = timeout(LONG, threads.reload(SHORT)).await.expect("it has an end");
        let error: BoxError = failed.unwrap_err().into();
        assert_eq!(cause::<ReloadFailed>(&error), ReloadFailed::TimedOut);
    }
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "served");
    drop(release);
    threads.reload(LONG).await.unwrap();
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn lookalike_fields_are_removed_before_the_application_is_called() {
    let threads = threads(1, || {
        blocking(|request| {
            let mut names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
            names.sort_unstable();
            Response::new(names.join(" "))
        })
    });
    let mut request = get("/");
    for name in ["accept", "x_forwarded_for", "x-forwarded-for", "content_length", "x_y"] {
        request.headers_mut().append(name, http::HeaderValue::from_static("1"));
    }
    let response = threads.start().unwrap().oneshot(request).await.unwrap();
    assert_eq!(text(&response), "accept x-forwarded-for x_y");
}

#[tokio::test]
async fn axum_router_is_an_application_and_its_small_body_is_one_piece() {
    use axum::routing;
    let threads = threads(1, || {
        axum::Router::new()
            .route("/hello", routing::get(|| async { "hello" }))
            .route("/echo", routing::post(|body: Bytes| async move { body }))
    });
    let threads = threads.start().unwrap();
    let hello = threads.clone().oneshot(get("/hello")).await.unwrap();
    assert_eq!(text(&hello), "hello");
    let echo = Request::post("/echo").body(Body::from("sent")).unwrap();
    assert_eq!(text(&threads.clone().oneshot(echo).await.unwrap()), "sent");
    assert_eq!(threads.clone().oneshot(get("/no")).await.unwrap().status(), 404);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn handle_accepts_any_body_and_is_a_service_of_axum() {
    let echo = || blocking(|r: Request<Bytes>| Response::new(r.into_body()));
    let threads = threads(1, echo).start().unwrap();
    let request = Request::new(Full::new(Bytes::from("full")));
    assert_eq!(text(&threads.clone().oneshot(request).await.unwrap()), "full");

    let table =
        tower::util::MapErr::new(threads.clone(), |e: BoxError| -> std::convert::Infallible {
            panic!("{e}")
        });
    let app = axum::Router::new().fallback_service(table);
    let request = Request::new(axum::body::Body::from("sent"));
    let body = app.oneshot(request).await.unwrap().into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "sent");
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn request_body_keeps_its_kind() {
    let threads = threads(1, || {
        tower::service_fn(|r: Request| async move {
            let len = r.body().as_file().map(FileSlice::len);
            Ok::<_, BoxError>(Response::new(Body::from(format!("{len:?}"))))
        })
    });
    let threads = threads.start().unwrap();
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(10).unwrap();
    let request = Request::new(Body::file(FileSlice::new(file, 0, 10)));
    assert_eq!(text(&threads.oneshot(request).await.unwrap()), "Some(10)");
}

#[tokio::test]
async fn file_in_response_stays_a_file() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(10).unwrap();
    let app = move || {
        let file = file.clone();
        blocking(move |_| Response::new(Body::file(FileSlice::new(file.clone(), 0, 10))))
    };
    let threads = threads(1, app).start().unwrap();
    let response = threads.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.body().as_file().map(FileSlice::len), Some(10));
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn spawned_task_continues_between_requests() {
    let (ask, asked) = mpsc::unbounded_channel::<u32>();
    let (tell, mut told) = mpsc::unbounded_channel();
    let asked = Mutex::new(Some(asked));
    let threads = threads(1, move || {
        let mut asked = asked.lock().unwrap().take().unwrap();
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Some(n) = asked.recv().await {
                let _ = tell.send(n * 2);
            }
        });
        blocking(|_| Response::new(""))
    });
    let threads = threads.start().unwrap();
    threads.clone().oneshot(get("/")).await.unwrap();
    ask.send(21).unwrap();
    assert_eq!(told.recv().await, Some(42));
    threads.shutdown(LONG).await.unwrap();
}

/// Sends a message on drop.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn work_that_awaits_is_dropped_at_its_timeout() {
    let (tx, mut dropped) = mpsc::unbounded_channel();
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
    let threads = threads.request_timeout(SHORT * 10).start().unwrap();
    let error = threads.clone().oneshot(get("/never")).await.unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    dropped.recv().await.unwrap();
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "fine");
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn panic_while_application_is_dropped_does_not_end_the_pool() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    let threads = threads(1, || {
        let guard = PanicsOnDrop;
        blocking(move |r: Request<Bytes>| {
            let _ = &guard;
            assert_ne!(r.uri().path(), "/panic");
            Response::new("fine")
        })
    });
    let threads = threads.start().unwrap();
    assert!(threads.clone().oneshot(get("/panic")).await.is_err());
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "fine");
    threads.shutdown(LONG).await.unwrap();
}

#[test]
fn failed_start_leaves_no_thread() {
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
    assert!(cause::<FactoryPanicked>(&error).message.contains("no database"));
    assert_eq!(Arc::strong_count(&alive), 1, "all threads have ended");
}

#[tokio::test]
async fn dropped_handle_ends_all_threads() {
    let alive = Arc::new(());
    let kept = alive.clone();
    let threads = threads(2, move || {
        let _ = &kept;
        blocking(|_| Response::new(""))
    });
    let threads = threads.start().unwrap();
    let pool = threads.0.pool().clone();
    drop(threads);
    pool.ended().await;
    assert_eq!(Arc::strong_count(&alive), 1, "all threads have ended");
}

async fn begin(threads: &Threads) -> ResponseFuture {
    let mut threads = threads.clone();
    ServiceExt::<Request>::ready(&mut threads).await.unwrap().call(get("/"))
}

#[tokio::test]
async fn cancelled_requests_make_up_at_most_half_of_the_queue() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Mutex::new(Some(held));
    let threads = threads(1, move || {
        let held = held.lock().unwrap().take().unwrap();
        blocking(move |_| {
            let _ = held.recv();
            Response::new("")
        })
    });
    let threads = threads.queue(8).start().unwrap();
    let waiting = [begin(&threads).await, begin(&threads).await, begin(&threads).await];
    for _ in 0..1000 {
        drop(begin(&threads).await);
        let len = threads.0.pool().lock().queue.len();
        assert!(len <= 7, "{len} jobs for 3 callers");
    }
    drop(release);
    for answer in waiting {
        answer.await.unwrap();
    }
    let permits = threads.0.pool().permits.clone();
    threads.shutdown(LONG).await.unwrap();
    assert_eq!(permits.available_permits(), 9, "every permit was returned once");
}

#[tokio::test]
async fn closed_pool_is_ready_to_refuse() {
    let threads = threads(1, || blocking(|_| Response::new(""))).start().unwrap();
    threads.close();
    let mut handle = threads.clone();
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(matches!(Service::<Request>::poll_ready(&mut handle, cx), Poll::Ready(Ok(()))));
    assert_eq!(cause::<Closed>(&handle.call(get("/")).await.unwrap_err()), Closed);
}

#[tokio::test]
async fn pool_serves_or_refuses_with_extreme_settings() {
    type Builder = ThreadsBuilder<axum::Router>;
    let settings: [fn(Builder, bool) -> Builder; 10] = [
        |b, is_max| b.max_workers(count(is_max)),
        |b, is_max| b.max_workers(3).spare_workers(count(is_max)),
        |b, is_max| b.max_workers(3).spare_workers(1).idle_timeout(time(is_max)),
        |b, is_max| b.queue(count(is_max)),
        |b, is_max| b.queue_timeout(time(is_max)),
        |b, is_max| b.request_timeout(time(is_max)),
        |b, is_max| b.max_abandoned(count(is_max)),
        |b, is_max| b.recycle_after(number(is_max), 0),
        |b, is_max| b.recycle_after(number(is_max), u64::MAX),
        |b, is_max| b.recycle_age(time(is_max)),
    ];
    for (set, is_max) in settings.iter().flat_map(|set| [(set, true), (set, false)]) {
        let app = || axum::Router::new().route("/", axum::routing::get(|| async { "served" }));
        let threads = set(threads(2, app), is_max).start().unwrap();
        for _ in 0..3 {
            serves_or_refuses(threads.clone().oneshot(get("/")).await);
        }
        threads.shutdown(LONG).await.unwrap();
    }
}
