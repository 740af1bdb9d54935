//! Tests of the request buffer.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{super::super::assert_ready::AssertReady, *};
use crate::{
    Body, Response,
    body::{CHANNEL_CAPACITY, FileSlice},
};

/// Answers with the request's body.
async fn echo(r: Request) -> Result<Response, BoxError> {
    Ok(Response::new(r.into_body()))
}

fn request(body: Body) -> Request {
    Request::new(body)
}

fn limit(error: &BoxError) -> Option<u64> {
    let ours = Error::find(&**error)?;
    assert_eq!(ours.kind(), Kind::TooLarge);
    ours.source()?.downcast_ref::<BodyTooLarge>().map(|e| e.limit)
}

#[tokio::test]
async fn body_in_one_piece_is_passed_without_copy() {
    let bytes = Bytes::from(vec![7; 100]);
    let at = bytes.as_ptr();
    let response =
        RequestBuffer::new(AssertReady::new(echo)).oneshot(request(bytes.into())).await.unwrap();
    assert_eq!(response.body().as_bytes().unwrap().as_ptr(), at);
}

#[tokio::test]
async fn streamed_body_arrives_whole_and_service_is_called_after_it() {
    let called = Arc::new(AtomicBool::new(false));
    let seen = called.clone();
    let mut buffer = RequestBuffer::new(AssertReady::new(move |r: Request| {
        seen.store(true, Ordering::SeqCst);
        echo(r)
    }));
    let (tx, body) = Body::channel(None);
    let mut answer = by_hand(buffer.call(request(body))); // always ready
    assert!(answer.poll().is_pending());
    tx.send("one ".into()).unwrap();
    tx.send("two ".into()).unwrap();
    assert!(answer.poll().is_pending());
    tx.send("three".into()).unwrap();
    assert!(answer.poll().is_pending());
    assert!(!called.load(Ordering::SeqCst));
    tx.finish(None);
    let Poll::Ready(Ok(response)) = answer.poll() else { panic!("not answered") };
    assert_eq!(response.body().as_bytes().unwrap(), "one two three");
}

#[tokio::test]
async fn one_streamed_piece_is_not_copied() {
    let (tx, body) = Body::channel(Some(3));
    let piece = Bytes::from(vec![1, 2, 3]);
    let at = piece.as_ptr();
    tx.send(piece).unwrap();
    tx.finish(None);
    let response = RequestBuffer::new(AssertReady::new(echo)).oneshot(request(body)).await.unwrap();
    assert_eq!(response.body().as_bytes().unwrap().as_ptr(), at);
}

#[tokio::test]
async fn waiting_piece_keeps_no_read_buffer_alive() {
    let (tx, body) = Body::channel(None);
    let read = Bytes::from(vec![1; 64 << 10]);
    let mut call = by_hand(RequestBuffer::new(AssertReady::new(echo)).oneshot(request(body)));
    tx.send(read.slice(..4 << 10)).unwrap();
    assert!(call.poll().is_pending());
    assert!(read.is_unique());
    tx.finish(None);
    assert!(call.poll().is_ready());
}

#[tokio::test]
async fn declared_length_above_the_bound_is_refused_unread() {
    let buffer = RequestBufferLayer::new().max_body(10).layer(AssertReady::new(echo));
    // The sender is alive and sends nothing: a buffer that reads would wait.
    let (_tx, body) = Body::channel(Some(11));
    let error = buffer.clone().oneshot(request(body)).await.unwrap_err();
    assert_eq!(limit(&error), Some(10));

    let (_tx, body) = Body::channel(None);
    let mut by_header = request(body);
    by_header.headers_mut().insert("content-length", "11".parse().unwrap());
    assert_eq!(limit(&buffer.clone().oneshot(by_header).await.unwrap_err()), Some(10));

    let whole = request("12345678901".into());
    assert_eq!(limit(&buffer.clone().oneshot(whole).await.unwrap_err()), Some(10));

    // As from an outer buffer with a larger limit.
    let file = FileSlice::new(Arc::new(tempfile::tempfile().unwrap()), 0, 11);
    assert_eq!(limit(&buffer.oneshot(request(Body::file(file))).await.unwrap_err()), Some(10));
}

#[tokio::test]
async fn request_without_memory_is_not_read() {
    let budget = Budget::builder().hard_limit(0).build();
    let layer = RequestBufferLayer::new().budget(budget.clone());
    let (tx, body) = Body::channel(None);
    let mut call = by_hand(layer.layer(AssertReady::new(echo)).oneshot(request(body)));
    let Poll::Ready(Err(error)) = call.poll() else { panic!("it waits for the body") };
    assert_eq!(Error::find(&*error).unwrap().kind(), Kind::Overloaded);
    assert_eq!(budget.usage().refused, 1);
    let cx = Context::from_waker(std::task::Waker::noop());
    drop(call);
    assert_eq!(tx.poll_demand(&cx), Poll::Ready(Err(crate::body::ReaderDropped)));
}

#[tokio::test]
async fn body_may_reach_its_bound_but_not_exceed_it() {
    let buffer = RequestBufferLayer::new().max_body(10).layer(AssertReady::new(echo));
    for (more, fits) in [("67890", true), ("678901", false)] {
        let (tx, body) = Body::channel(None);
        tx.send("12345".into()).unwrap();
        tx.send(more.into()).unwrap();
        // Not finished in the second case: refused when it exceeds the limit.
        if fits {
            tx.finish(None);
            let response = buffer.clone().oneshot(request(body)).await.unwrap();
            assert_eq!(response.body().len(), Some(10));
        } else {
            let error = buffer.clone().oneshot(request(body)).await.unwrap_err();
            assert_eq!(limit(&error), Some(10));
            assert!(tx.send("x".into()).is_err(), "the rest is not read");
        }
    }
}

#[tokio::test]
async fn large_body_arrives_in_order() {
    let (tx, body) = Body::channel(None);
    let data: Vec<u8> = (0..900_000u32).map(|i| i as u8).collect();
    let expected = data.clone();
    tokio::spawn(async move {
        for piece in data.chunks(CHANNEL_CAPACITY / 3) {
            tx.ready().await.unwrap();
            tx.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        tx.finish(None);
    });
    let response = RequestBuffer::new(AssertReady::new(echo)).oneshot(request(body)).await.unwrap();
    assert!(response.into_body().collect().await.unwrap().to_bytes() == expected);
}

#[tokio::test]
async fn trailers_are_kept() {
    let (tx, body) = Body::channel(None);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "9".parse().unwrap());
    tx.send("ab".into()).unwrap();
    tx.finish(Some(trailers.clone()));
    let response = RequestBuffer::new(AssertReady::new(echo)).oneshot(request(body)).await.unwrap();
    assert_eq!((response.body().len(), response.body().size_hint().lower()), (None, 2));
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "ab");
}

#[tokio::test]
async fn error_of_client_body_is_passed_on_unchanged() {
    let (tx, body) = Body::channel(None);
    tx.send("ab".into()).unwrap();
    tx.abort(Error::new(Kind::ClientTimeout, "too slow"));
    let error =
        RequestBuffer::new(AssertReady::new(echo)).oneshot(request(body)).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Error>().map(Error::kind), Some(Kind::ClientTimeout));
}

/// A future that is polled by hand.
struct Task<F>(Pin<Box<F>>);

fn by_hand<F: Future>(f: F) -> Task<F> {
    Task(Box::pin(f))
}

impl<F: Future> Task<F> {
    fn poll(&mut self) -> Poll<F::Output> {
        self.0.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}

#[test]
fn request_buffer_has_the_budget_of_the_process_by_default() {
    assert!(RequestBufferLayer::new().options.budget.is_same(&process_budget()));
}
