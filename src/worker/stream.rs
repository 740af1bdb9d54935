//! A response body on its way from a worker to the client: who ends it, and who is still there.

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
    body::{Gone, Sender},
    error::BoxError,
};

/// The worker's side. The watch may end it too, over the head of a worker that is stuck.
#[derive(Debug)]
pub(super) struct Stream {
    /// `None` once the body has ended, by whomsoever.
    sender: Mutex<Option<Sender>>,
}

/// A stream and the body that reads it, of `len` bytes if that is known.
pub(super) fn new(len: Option<u64>) -> (Arc<Stream>, Body) {
    let (sender, body) = Body::channel(len);
    (Arc::new(Stream { sender: Mutex::new(Some(sender)) }), body)
}

impl Stream {
    /// Waits for room, or learns that nobody reads, also while the application is waited for.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        match &*lock(&self.sender) {
            // Asked first, so that the reader's leaving wakes us whether or not there is room.
            Some(sender) if sender.poll_gone(cx).is_pending() => sender.poll_ready(cx),
            _ => Poll::Ready(Err(Gone)),
        }
    }

    pub(super) fn send(&self, data: Bytes) -> Result<(), Gone> {
        lock(&self.sender).as_ref().ok_or(Gone)?.send(data)
    }

    pub(super) fn finish(&self, trailers: Option<HeaderMap>) {
        // Taken first: the reader is woken with no lock held.
        let sender = lock(&self.sender).take();
        if let Some(s) = sender {
            s.finish(trailers);
        }
    }

    pub(super) fn abort(&self, error: impl Into<BoxError>) {
        let sender = lock(&self.sender).take();
        if let Some(s) = sender {
            s.abort(error);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a body ended that was pumped.
pub(super) enum Ended {
    Whole(Option<HeaderMap>),
    Broken(BoxError),
    /// Nobody reads any more.
    Unread,
}

/// Moves `body` into `stream`, piece by piece, as there is room.
pub(super) async fn pump(mut body: Body, first: Option<Bytes>, stream: &Stream) -> Ended {
    if let Some(data) = first
        && stream.send(data).is_err()
    {
        return Ended::Unread;
    }
    let mut trailers = None;
    std::future::poll_fn(|cx| {
        loop {
            if ready!(stream.poll_room(cx)).is_err() {
                return Poll::Ready(Ended::Unread);
            }
            let frame = match ready!(Pin::new(&mut body).poll_frame(cx)) {
                None => return Poll::Ready(Ended::Whole(trailers.take())),
                Some(Err(e)) => return Poll::Ready(Ended::Broken(e)),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                // If nobody reads it, the next turn learns so.
                Ok(data) => drop(stream.send(data)),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
    })
    .await
}
