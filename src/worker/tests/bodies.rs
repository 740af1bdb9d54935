//! Tests of response bodies that a worker streams.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use http_body::Frame;
use http_body_util::BodyExt;

use super::*;
use crate::body::Sender;

/// One worker with one place, that answers with the body it is sent.
fn streaming(within: Duration) -> (Threads, mpsc::Sender<Body>) {
    let (tx, bodies) = mpsc::channel();
    let bodies = Arc::new(Mutex::new(bodies));
    let app = move || {
        let bodies = bodies.clone();
        blocking(move |_| Response::new(bodies.lock().unwrap().recv().unwrap()))
    };
    (threads(1, app).queue(0).request_timeout(within).start().unwrap(), tx)
}

/// A response whose body comes from the sender.
async fn open(within: Duration, len: Option<u64>) -> (Threads, Sender, Response) {
    let (threads, bodies) = streaming(within);
    let (tx, body) = Body::channel(len);
    bodies.send(body).unwrap();
    let response = threads.clone().oneshot(get("/")).await.unwrap();
    (threads, tx, response)
}

fn has_place(threads: &Threads) -> bool {
    threads.clone().poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[tokio::test]
async fn a_place_is_free_only_when_the_streamed_body_has_ended() {
    let (threads, tx, response) = open(LONG, Some(6)).await;
    let mut body = response.into_body();
    assert_eq!(body.len(), Some(6));
    assert!(!has_place(&threads));
    tx.send("abc".into()).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(!has_place(&threads), "the head and half of the body are gone, the work is not");
    assert_eq!(threads.stats().busy, 1);
    tx.send("def".into()).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "6".parse().unwrap());
    tx.finish(Some(trailers.clone()));
    let rest = body.collect().await.unwrap();
    assert_eq!(rest.trailers(), Some(&trailers));
    assert_eq!(rest.to_bytes(), "def");
    assert!(has_place(&threads));
    assert_eq!(threads.stats().busy, 0);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_frees_a_worker_that_waits_for_its_application() {
    let (threads, tx, response) = open(LONG, None).await;
    assert!(!has_place(&threads));
    // The application has nothing to send, so only the client's leaving can wake the worker.
    drop(response);
    threads.clone().ready().await.unwrap();
    assert!(tx.send("x".into()).is_err());
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_body_that_takes_longer_than_the_request_may_is_cut() {
    let (threads, tx, response) = open(SHORT, None).await;
    tx.send("abc".into()).unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(kind(&error), Kind::Timeout);
    threads.clone().ready().await.unwrap();
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_in_its_error() {
    let (threads, tx, response) = open(LONG, None).await;
    tx.send("abc".into()).unwrap();
    tx.abort("the disk is gone");
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "the disk is gone");
    threads.shutdown(LONG).await.unwrap();
}

/// What a [`Blocking`] body does in its second frame.
type Second = Box<dyn FnMut() + Send>;

/// Gives one piece, then runs blocking code.
struct Blocking {
    first: Option<Bytes>,
    second: Second,
}

impl http_body::Body for Blocking {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => {
                (self.second)();
                Poll::Ready(None)
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_blocks_its_worker_is_cut_over_its_head() {
    let (threads, bodies) = streaming(SHORT);
    let (release, held) = mpsc::channel::<()>();
    let second = Box::new(move || assert!(held.recv().is_err()));
    bodies.send(Body::new(Blocking { first: Some("abc".into()), second })).unwrap();
    let mut body = threads.clone().oneshot(get("/")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert_eq!(kind(&body.frame().await.unwrap().unwrap_err()), Kind::Timeout);
    bodies.send("next".into()).unwrap();
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "next");
    assert_eq!(threads.stats().written_off, 1);
    drop(release);
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_panic_in_the_body_is_an_error_after_the_bytes_before_it() {
    let (threads, bodies) = streaming(LONG);
    let second = Box::new(|| panic!("in the middle"));
    bodies.send(Body::new(Blocking { first: Some("abc".into()), second })).unwrap();
    let mut body = threads.clone().oneshot(get("/")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(cause::<WorkerPanicked>(&error).message, "in the middle");
    bodies.send("next".into()).unwrap();
    assert_eq!(text(&threads.clone().oneshot(get("/")).await.unwrap()), "next");
    threads.shutdown(LONG).await.unwrap();
}

#[tokio::test]
async fn a_file_is_handed_over_as_a_file() {
    let (threads, bodies) = streaming(LONG);
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.set_len(10).unwrap();
    bodies.send(Body::file(crate::body::FileSlice::new(file, 0, 10))).unwrap();
    let response = threads.clone().oneshot(get("/")).await.unwrap();
    assert_eq!(response.body().as_file().map(crate::body::FileSlice::len), Some(10));
    threads.shutdown(LONG).await.unwrap();
}
