//! Tests of clients that disconnect at each stage, under each policy.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, Semaphore},
    task::yield_now,
    time::timeout,
};
use tower::ServiceExt;

use super::{
    super::{ConcurrencyLimitLayer, RequestBufferLayer, assert_ready::AssertReady},
    *,
};
use crate::{
    conn::{Config, Http1Config, Transport, h1::server::Connection, upgrade},
    net::DrainWatch,
    peer::Peer,
};

/// An application that waits for permission to respond and before each of two pieces.
#[derive(Clone)]
struct App {
    leave: Arc<Semaphore>,
    /// The stage: 1 begun, 2 responded, 4 at the end of its body.
    reached: Arc<AtomicUsize>,
    /// Notified when its body is dropped.
    gone: Arc<Notify>,
}

impl App {
    fn new() -> Self {
        let (leave, reached, gone) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::default());
        Self { leave, reached, gone }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::SeqCst)
    }

    fn service(&self) -> AssertReady<impl FnMut(Request) -> Work + Clone + use<>> {
        let app = self.clone();
        AssertReady::new(move |_: Request| {
            let app = app.clone();
            Box::pin(async move {
                app.reached.store(1, Ordering::SeqCst);
                app.leave.acquire().await.unwrap().forget();
                app.reached.store(2, Ordering::SeqCst);
                let (tx, body) = Body::channel(None);
                tokio::spawn(async move {
                    for _ in 0..2 {
                        app.leave.acquire().await.unwrap().forget();
                        if tx.ready().await.is_err() || tx.send(Bytes::from("x")).is_err() {
                            app.gone.notify_one();
                            return;
                        }
                    }
                    app.reached.store(4, Ordering::SeqCst);
                    tx.finish(None);
                });
                Ok(Response::new(body))
            }) as Work
        })
    }
}

async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Starts a call and polls it once.
async fn begin(layer: &DisconnectLayer, app: &App) -> ResponseFuture {
    let mut service = layer.layer(app.service());
    let mut call = service.ready().await.unwrap().call(Request::default());
    let pending = timeout(Duration::ZERO, &mut call).await;
    assert!(pending.is_err() && app.reached() == 1);
    call
}

#[tokio::test(start_paused = true)]
async fn work_is_cancelled_or_continues_to_its_head_or_to_its_end() {
    for (layer, after_head, after_all) in [
        (DisconnectLayer::cancel(), 1, 1),
        (DisconnectLayer::detach(), 2, 2),
        (DisconnectLayer::finish(), 2, 4),
    ] {
        let app = App::new();
        let drain = layer.detached();
        drop(begin(&layer, &app).await);
        let goes_on = usize::from(after_head > 1);
        assert_eq!((drain.len(), app.reached()), (goes_on, 1));
        app.leave.add_permits(1);
        settle().await;
        assert_eq!(app.reached(), after_head);
        app.leave.add_permits(2);
        drain.ended().await;
        settle().await;
        assert_eq!(app.reached(), after_all);
    }
}

#[tokio::test]
async fn finish_alone_reads_body_to_its_end() {
    for (layer, to_the_end) in [
        (DisconnectLayer::cancel(), false),
        (DisconnectLayer::detach(), false),
        (DisconnectLayer::finish(), true),
    ] {
        let app = App::new();
        let call = begin(&layer, &app).await;
        app.leave.add_permits(2);
        let mut body = call.await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
        drop(body);
        app.leave.add_permits(1);
        if to_the_end {
            layer.detached().ended().await;
            assert_eq!(app.reached(), 4);
        } else {
            app.gone.notified().await;
            assert_eq!((app.reached(), layer.detached().len()), (2, 0));
        }
    }
}

#[tokio::test]
async fn connected_client_needs_no_task_and_complete_body_keeps_its_kind() {
    for layer in [DisconnectLayer::detach(), DisconnectLayer::finish()] {
        let app = App::new();
        app.leave.add_permits(3);
        let body = layer.layer(app.service()).oneshot(Request::default()).await.unwrap();
        assert_eq!(body.into_body().collect().await.unwrap().to_bytes(), "xx");
        let hello =
            AssertReady::new(async |_: Request| Ok::<_, BoxError>(Response::new(Body::from("hi"))));
        let body = layer.layer(hello).oneshot(Request::default()).await.unwrap().into_body();
        assert_eq!(body.as_bytes().unwrap(), "hi");
        drop(body);
        assert!(layer.detached().is_empty());
    }
}

#[tokio::test]
async fn tunnel_that_has_ended_holds_no_permit() {
    let limit = ConcurrencyLimitLayer::new(1);
    let layer = DisconnectLayer::finish();
    let app = AssertReady::new(async |_: Request| {
        Ok::<_, BoxError>(upgrade::switch("websocket", |stream| async { drop(stream) }))
    });
    let mut site = layer.layer(limit.layer(app));
    for leaves_early in [false, true] {
        let call = site.ready().await.unwrap().call(Request::default());
        if leaves_early {
            drop(call); // before the response: the call continues in a task
        } else {
            drop(call.await.unwrap());
        }
        // Without a permit it would not become ready.
        timeout(Duration::from_secs(60), site.ready()).await.expect("it holds its permit").unwrap();
        layer.detached().ended().await;
    }
}

#[tokio::test(start_paused = true)]
async fn detached_work_is_bounded_in_number_and_time() {
    let layer = DisconnectLayer::builder(Policy::Detach)
        .max_detached(2)
        .time_limit(Duration::from_secs(60))
        .build();
    let apps: Vec<App> = (0..4).map(|_| App::new()).collect();
    for (app, going_on) in apps.iter().zip([1, 2, 2]) {
        drop(begin(&layer, app).await);
        assert_eq!(layer.detached().len(), going_on);
    }
    let start = tokio::time::Instant::now();
    layer.detached().ended().await;
    assert_eq!(start.elapsed().as_secs(), 60);
    apps[..3].iter().for_each(|app| app.leave.add_permits(3));
    settle().await;
    assert!(apps.iter().all(|app| app.reached() <= 1), "all were dropped");
    drop(begin(&layer, &apps[3]).await);
    apps[3].leave.add_permits(1);
    layer.detached().ended().await;
    assert_eq!(apps[3].reached(), 2, "and there is room again");
}

#[tokio::test]
async fn shutdown_can_abort_detached_work() {
    let (layer, app) = (DisconnectLayer::finish(), App::new());
    drop(begin(&layer, &app).await);
    let drain = layer.detached();
    drain.begin();
    settle().await;
    assert_eq!(drain.len(), 1, "a drain lets it end");
    drain.abort();
    drain.ended().await;
}

#[test]
fn work_outside_of_runtime_is_cancelled() {
    let (layer, app) = (DisconnectLayer::detach(), App::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = runtime.block_on(begin(&layer, &app));
    drop(call);
    assert!(layer.detached().is_empty());
}

#[tokio::test]
async fn permit_is_held_until_detached_work_ends() {
    let (layer, app) = (DisconnectLayer::finish(), App::new());
    let limit = ConcurrencyLimitLayer::new(1);
    let mut service = layer.layer(limit.layer(app.service()));
    let mut call = service.ready().await.unwrap().call(Request::default());
    let _ = timeout(Duration::ZERO, &mut call).await;
    drop(call);
    app.leave.add_permits(2);
    settle().await;
    assert_eq!((app.reached(), limit.stats().in_flight), (2, 1));
    app.leave.add_permits(1);
    layer.detached().ended().await;
    assert_eq!((app.reached(), limit.stats().in_flight), (4, 0));
}

#[tokio::test]
async fn detached_work_continues_when_client_resets_its_connection() {
    let (layer, app) = (DisconnectLayer::detach(), App::new());
    let service = RequestBufferLayer::new().layer(layer.layer(app.service()));
    let (mut client, io) = tokio::io::duplex(1 << 10);
    // A transport in memory has no resets: its end counts as one.
    let config = Config::new().http1(Http1Config::new().half_close(Duration::ZERO));
    let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    let connection = tokio::spawn(Connection::new(transport, service, Arc::new(config)));
    // An incomplete request is not detached.
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await.unwrap();
    settle().await;
    assert_eq!(app.reached(), 0);
    client.write_all(b"y").await.unwrap();
    settle().await;
    assert_eq!(app.reached(), 1);
    drop(client);
    connection.await.unwrap().unwrap();
    assert_eq!(layer.detached().len(), 1);
    app.leave.add_permits(1);
    layer.detached().ended().await;
    assert_eq!(app.reached(), 2);
}

#[tokio::test]
async fn endless_body_yields_to_other_tasks() {
    let endless = body_of(|| Some(Bytes::from_static(b"more")));
    let layer = DisconnectLayer::finish();
    let body = Arc::new(std::sync::Mutex::new(Some(endless)));
    let app = AssertReady::new(move |_: Request| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, BoxError>(Response::new(body)) }
    });
    drop(layer.layer(app).oneshot(Request::default()).await.unwrap());
    let drain = layer.detached();
    settle().await; // hangs if the body does not yield
    assert_eq!(drain.len(), 1);
    drain.begin();
    drain.abort();
    drain.ended().await;
}

#[tokio::test]
async fn response_to_head_is_not_read_to_its_end() {
    let (layer, app) = (DisconnectLayer::finish(), App::new());
    app.leave.add_permits(1);
    let head = Request::builder().method("HEAD").body(Body::empty()).unwrap();
    drop(layer.layer(app.service()).oneshot(head).await.unwrap());
    assert!(layer.detached().is_empty());
    app.leave.add_permits(2);
    app.gone.notified().await;
}

#[tokio::test]
async fn work_that_panicked_does_not_continue() {
    let layer = DisconnectLayer::finish();
    let polled = Arc::new(AtomicUsize::new(0));
    let panics = |polled: &Arc<AtomicUsize>| {
        let polled = polled.clone();
        move || -> Option<Bytes> {
            polled.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose")
        }
    };
    let once = panics(&polled);
    let work = AssertReady::new(move |_: Request| {
        let once = once.clone();
        std::future::poll_fn(move |_| -> Poll<Result<Response, BoxError>> {
            once();
            Poll::Pending
        })
    });
    let at_work = layer.layer(work).oneshot(Request::default());
    assert!(tokio::spawn(at_work).await.unwrap_err().is_panic());

    let body = Arc::new(std::sync::Mutex::new(Some(body_of(panics(&polled)))));
    let app = AssertReady::new(move |_: Request| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, BoxError>(Response::new(body)) }
    });
    let response = layer.layer(app).oneshot(Request::default()).await.unwrap();
    assert!(tokio::spawn(response.into_body().collect()).await.unwrap_err().is_panic());
    settle().await;
    assert_eq!((polled.load(Ordering::SeqCst), layer.detached().len()), (2, 0));
}

/// A body whose frames come from a function.
fn body_of(next: impl FnMut() -> Option<Bytes> + Send + Unpin + 'static) -> Body {
    struct Made<F>(F);
    impl<F: FnMut() -> Option<Bytes> + Unpin> http_body::Body for Made<F> {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
            Poll::Ready((self.0)().map(|data| Ok(http_body::Frame::data(data))))
        }
    }
    Body::new(Made(next))
}
