//! Tests of the response buffer.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tower::ServiceExt;

use super::{
    super::super::{assert_ready::AssertReady, limit::ConcurrencyLimitLayer},
    *,
};

/// A body that is pending before each piece and reports when it is dropped.
struct Scripted {
    pieces: VecDeque<Bytes>,
    waited: bool,
    given: Arc<AtomicUsize>,
    dropped: Option<oneshot::Sender<()>>,
}

impl http_body::Body for Scripted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.waited = !self.waited;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = self.pieces.pop_front();
        self.given.fetch_add(usize::from(piece.is_some()), Ordering::SeqCst);
        Poll::Ready(piece.map(|data| Ok(Frame::data(data))))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        let _ = self.dropped.take().expect("dropped once").send(());
    }
}

/// Returns a body of `n` pieces of `len` bytes, the number of pieces read, and the report of its drop.
fn scripted(n: usize, len: usize) -> (Body, Arc<AtomicUsize>, oneshot::Receiver<()>) {
    let (tx, dropped) = oneshot::channel();
    let given = Arc::new(AtomicUsize::new(0));
    let pieces = (0..n).map(|i| Bytes::from(vec![i as u8; len])).collect();
    let body = Scripted { pieces, waited: false, given: given.clone(), dropped: Some(tx) };
    (Body::new(body), given, dropped)
}

/// `response` through a buffer of `max` bytes.
async fn through(max: usize, response: Response) -> Response {
    let response = Arc::new(Mutex::new(Some(response)));
    let app = AssertReady::new(move |_: Request| {
        std::future::ready(Ok::<_, BoxError>(response.lock().unwrap().take().unwrap()))
    });
    let layer = ResponseBufferLayer::new().max_memory(max).max_disk(0);
    layer.layer(app).oneshot(Request::default()).await.unwrap()
}

async fn buffered(max: usize, body: Body) -> Body {
    through(max, Response::new(body)).await.into_body()
}

fn poll(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn client_that_reads_nothing_delays_no_worker() {
    let (body, given, dropped) = scripted(100, 1000);
    let out = buffered(MAX_MEMORY, body).await;
    // `out` is not read; the inner body is read to its end nevertheless, and dropped.
    dropped.await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 100);
    let all = out.collect().await.unwrap().to_bytes();
    assert_eq!(all.len(), 100_000);
    assert_eq!((all[0], all[99_999]), (0, 99));
}

#[tokio::test]
async fn body_above_the_bound_waits_for_the_client() {
    let (body, given, dropped) = scripted(100, 1000);
    let mut out = buffered(10_000, body).await;
    settle().await;
    assert_eq!(given.load(Ordering::SeqCst), 10);
    out.frame().await.unwrap().unwrap();
    settle().await;
    assert_eq!(given.load(Ordering::SeqCst), 11);
    assert_eq!(out.collect().await.unwrap().to_bytes().len(), 99_000);
    dropped.await.unwrap();
}

#[tokio::test]
async fn tiny_pieces_count_for_what_they_cost() {
    let (body, given, _dropped) = scripted(1000, 1);
    let _out = buffered(6400, body).await;
    settle().await;
    assert_eq!(given.load(Ordering::SeqCst), 100);
}

/// Lets the other tasks of this runtime run until all are pending.
async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn departed_client_ends_the_body() {
    let (tx, body) = Body::channel(None);
    let out = buffered(MAX_MEMORY, body).await;
    tx.send("abc".into()).unwrap();
    settle().await;
    drop(out);
    settle().await;
    assert!(tx.send("def".into()).is_err(), "the body inside is dropped");
}

#[tokio::test]
async fn head_and_available_bytes_are_not_held_back() {
    let (tx, body) = Body::channel(Some(6));
    let mut out = buffered(MAX_MEMORY, body).await;
    assert_eq!(out.len(), Some(6));
    tx.send("abc".into()).unwrap();
    assert_eq!(out.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert_eq!(out.len(), Some(3));
    assert!(poll(&mut out).is_pending());
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "6".parse().unwrap());
    tx.send("def".into()).unwrap();
    tx.finish(Some(trailers.clone()));
    let rest = out.collect().await.unwrap();
    assert_eq!(rest.trailers(), Some(&trailers));
    assert_eq!(rest.to_bytes(), "def");
}

#[tokio::test]
async fn error_comes_after_the_bytes_before_it() {
    for at_once in [true, false] {
        let (tx, body) = Body::channel(None);
        tx.send("abc".into()).unwrap();
        let mut tx = Some(tx);
        if at_once {
            tx.take().unwrap().abort("cut");
        }
        let mut out = buffered(MAX_MEMORY, body).await;
        if let Some(tx) = tx {
            tx.abort("cut");
        }
        assert_eq!(out.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert_eq!(out.frame().await.unwrap().unwrap_err().to_string(), "cut");
        assert!(out.frame().await.is_none());
    }
}

#[tokio::test]
async fn panic_of_body_is_error_and_not_end() {
    struct Panics(bool);
    impl http_body::Body for Panics {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            assert!(!std::mem::replace(&mut self.0, true), "on purpose");
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
    let mut out = buffered(MAX_MEMORY, Body::new(Panics(false))).await;
    assert!(out.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn stream_that_is_complete_at_once_becomes_bytes() {
    let (tx, body) = Body::channel(None);
    tx.send("abc".into()).unwrap();
    tx.send("def".into()).unwrap();
    tx.finish(None);
    assert_eq!(buffered(MAX_MEMORY, body).await.as_bytes().unwrap(), "abcdef");
}

#[tokio::test]
async fn body_of_other_length_than_declared_is_not_completed() {
    for said in [3, 8] {
        let (tx, body) = Body::channel(Some(said));
        tx.send("hello".into()).unwrap();
        tx.finish(None);
        let out = buffered(MAX_MEMORY, body).await;
        assert_eq!((out.len(), out.as_bytes()), (Some(said), None), "the server finds out");
    }
}

#[tokio::test]
async fn body_in_memory_or_file_is_passed_on_unchanged() {
    let bytes = Bytes::from(vec![1; 10]);
    let out = buffered(1, bytes.clone().into()).await;
    assert_eq!(out.as_bytes().unwrap().as_ptr(), bytes.as_ptr());
    let file = Arc::new(tempfile::tempfile().unwrap());
    let slice = crate::body::FileSlice::new(file, 0, 10);
    assert!(buffered(1, Body::file(slice)).await.as_file().is_some());
}

#[tokio::test]
async fn event_streams_and_opted_out_responses_are_not_buffered() {
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("content-type", "Text/Event-Stream; charset=utf-8"),
        ("x-accel-buffering", "no"),
    ] {
        let (tx, body) = Body::channel(None);
        let mut response = Response::new(body);
        response.headers_mut().insert(name, value.parse().unwrap());
        let _out = through(MAX_MEMORY, response).await;
        tx.send(vec![0; crate::body::CHANNEL_CAPACITY].into()).unwrap();
        settle().await;
        let cx = Context::from_waker(Waker::noop());
        assert!(tx.poll_ready(&cx).is_pending(), "{name}: {value}: nobody read it");
    }
}

#[tokio::test]
async fn refused_request_releases_permit_reserved_inside() {
    let budget = Budget::builder().hard_limit(10).build();
    let inside = ConcurrencyLimitLayer::new(1);
    let layer = ResponseBufferLayer::new().budget(budget.clone());
    // Not dropped, as a connection keeps its handle between requests.
    let hello =
        AssertReady::new(async |_: Request| Ok::<_, BoxError>(Response::new(Body::from("hello"))));
    let mut service = layer.layer(inside.layer(hello));
    service.ready().await.unwrap();
    let mut taken = budget.memory_lease();
    taken.set(10);
    assert!(service.call(Request::default()).await.is_err());
    assert_eq!(inside.stats().in_flight, 0);
    drop(taken);
    assert!(service.ready().await.unwrap().call(Request::default()).await.is_ok());
}

#[test]
fn response_buffer_has_the_budget_of_the_process_by_default() {
    assert!(ResponseBufferLayer::new().options.budget.is_same(&process_budget()));
}
