//! Tests of worker threads, by what a caller sees. Real threads, so real but short times.

mod bodies;
mod end;
mod places;
mod trouble;

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc as tokio_mpsc;
use tower::{Service, ServiceExt};

use super::*;
use crate::{
    Body, BoxError, Request, Response,
    error::{Error, Kind},
};

/// Long enough that it never passes in a test that goes well.
const LONG: Duration = Duration::from_secs(60);
/// A time that a test waits for.
const SHORT: Duration = Duration::from_millis(30);

/// The test's side of a [`gated`] application.
struct Gate {
    /// Paths, as workers begin them.
    entered: tokio_mpsc::UnboundedReceiver<String>,
    /// Lets one request go on that was held.
    release: mpsc::Sender<()>,
    builds: Arc<AtomicUsize>,
}

impl Gate {
    async fn entered(&mut self) -> String {
        self.entered.recv().await.expect("the application is alive")
    }

    fn builds(&self) -> usize {
        self.builds.load(Ordering::SeqCst)
    }
}

type Handler = Box<dyn FnMut(Request<Bytes>) -> Response>;

/// A blocking application: `/hold...` waits for the gate, `/panic` panics, others answer with the
/// name of their thread.
fn gated() -> (Gate, impl Fn() -> BlockingService<Handler> + Send + Sync) {
    let (entered_tx, entered) = tokio_mpsc::unbounded_channel();
    let (release, held) = mpsc::channel();
    let held = Arc::new(Mutex::new(held));
    let builds = Arc::new(AtomicUsize::new(0));
    let gate = Gate { entered, release, builds: builds.clone() };
    let factory = move || {
        builds.fetch_add(1, Ordering::SeqCst);
        let (entered, held) = (entered_tx.clone(), held.clone());
        blocking(Box::new(move |r: Request<Bytes>| {
            let path = r.uri().path().to_owned();
            let _ = entered.send(path.clone());
            if path.starts_with("/hold") {
                let _ = held.lock().unwrap().recv();
            }
            assert_ne!(path, "/panic", "as it was told to");
            Response::new(std::thread::current().name().unwrap().to_owned().into())
        }) as Handler)
    };
    (gate, factory)
}

fn get(path: &str) -> Request {
    Request::builder().uri(path).body(Body::empty()).unwrap()
}

/// Readies a clone of `threads` and calls it.
async fn call(threads: &Threads, path: &str) -> ResponseFuture {
    threads.clone().ready().await.unwrap().call(get(path))
}

fn text(response: &Response) -> String {
    let bytes = response.body().as_bytes().expect("a body in one piece");
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn kind(error: &BoxError) -> Kind {
    Error::find(&**error).expect("an error of ours").kind()
}

/// The typed cause of our error.
fn cause<E: std::error::Error + Clone + 'static>(error: &BoxError) -> E {
    let ours: &(dyn std::error::Error + 'static) = Error::find(&**error).expect("ours");
    ours.source().and_then(|s| s.downcast_ref::<E>()).expect("this cause").clone()
}

#[test]
fn a_handle_may_go_anywhere() {
    fn anywhere<T: Clone + Send + Sync + 'static>() {}
    anywhere::<Threads>();
    fn moves<T: Send + 'static>() {}
    moves::<ResponseFuture>();
}

#[tokio::test]
async fn an_instance_is_built_once_on_each_thread_and_need_not_be_send() {
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
async fn an_axum_router_is_an_application_and_its_small_body_comes_in_one_piece() {
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
async fn an_error_of_the_application_is_the_callers() {
    let threads = threads(1, || blocking(|_| Err::<Response, _>("no such table"))).start().unwrap();
    let error = threads.oneshot(get("/")).await.unwrap_err();
    assert_eq!(error.to_string(), "no such table");
}

#[tokio::test]
async fn what_the_application_spawned_goes_on_between_requests() {
    let (ask, asked) = tokio_mpsc::unbounded_channel::<u32>();
    let (tell, mut told) = tokio_mpsc::unbounded_channel();
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
