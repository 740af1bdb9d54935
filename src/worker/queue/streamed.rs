//! `Streamed`: a response body that a worker sends to the client piece by piece.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;

use crate::{
    Body,
    body::{ReaderDropped, Sender},
    error::BoxError,
};

/// The sending side of a response body. The supervisor may end it instead of a stuck worker.
#[derive(Debug)]
pub(crate) struct Streamed {
    /// `None` once the body has ended.
    sender: Mutex<Option<Sender>>,
}

/// Creates the sending side and the body that receives from it, of `len` bytes if that is known.
pub(crate) fn new(len: Option<u64>) -> (Arc<Streamed>, Body) {
    let (sender, body) = Body::channel(len);
    (Arc::new(Streamed { sender: Mutex::new(Some(sender)) }), body)
}

impl Streamed {
    /// Waits for capacity. Also registers for the drop of the reader, which wakes a worker that waits for its
    /// application.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), ReaderDropped>> {
        match &*lock(&self.sender) {
            // Registered first, since a channel with capacity does not register a waker.
            Some(sender) if sender.poll_closed(cx).is_pending() => sender.poll_ready(cx),
            _ => Poll::Ready(Err(ReaderDropped)),
        }
    }

    pub(crate) fn send(&self, data: Bytes) -> Result<(), ReaderDropped> {
        lock(&self.sender).as_ref().ok_or(ReaderDropped)?.send(data)
    }

    pub(crate) fn finish(&self, trailers: Option<HeaderMap>) {
        // Taken out first, so that the reader is woken without the lock.
        let sender = lock(&self.sender).take();
        if let Some(s) = sender {
            s.finish(trailers);
        }
    }

    pub(crate) fn abort(&self, error: impl Into<BoxError>) {
        let sender = lock(&self.sender).take();
        if let Some(s) = sender {
            s.abort(error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while the lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a body that was sent.
pub(crate) enum Ended {
    Complete(Option<HeaderMap>),
    Failed(BoxError),
    /// The reader was dropped.
    ReaderDropped,
}

/// Sends `first` and then `body` into `stream`, with backpressure. When the reader is slow for the first time, calls
/// `may_exceed`, which returns whether the rest of the body has arrived, so that it is sent without waiting for capacity.
pub(crate) async fn pump(
    mut body: Body,
    first: Option<Bytes>,
    stream: &Streamed,
    may_exceed: impl Fn() -> bool,
) -> Ended {
    if let Some(data) = first
        && stream.send(data).is_err()
    {
        return Ended::ReaderDropped;
    }
    let (mut trailers, mut exceeds) = (None, None);
    std::future::poll_fn(|cx| {
        loop {
            match stream.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ReaderDropped)) => return Poll::Ready(Ended::ReaderDropped),
                Poll::Pending if *exceeds.get_or_insert_with(&may_exceed) => {}
                Poll::Pending => return Poll::Pending,
            }
            let frame = match ready!(Pin::new(&mut body).poll_frame(cx)) {
                None => return Poll::Ready(Ended::Complete(trailers.take())),
                Some(Err(e)) => return Poll::Ready(Ended::Failed(e)),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                // The next iteration returns an error if the reader was dropped.
                Ok(data) => drop(stream.send(data)),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
    })
    .await
}
