//! A response body on its way from a worker to the client: who ends it, and who is still there.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

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
    reader: Mutex<Reader>,
}

#[derive(Debug, Default)]
struct Reader {
    gone: bool,
    /// The worker that waits for room, or for its application, while the reader may leave.
    worker: Option<Waker>,
}

/// A stream and the body that reads it, of `len` bytes if that is known.
pub(super) fn new(len: Option<u64>) -> (Arc<Stream>, Body) {
    let (sender, body) = Body::channel(len);
    let stream = Arc::new(Stream { sender: Mutex::new(Some(sender)), reader: Mutex::default() });
    (stream.clone(), Body::new(Outgoing { body, stream }))
}

impl Stream {
    /// Waits for room, or learns that nobody reads, also while the application is waited for.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), Gone>> {
        {
            let mut reader = lock(&self.reader);
            if reader.gone {
                return Poll::Ready(Err(Gone));
            }
            match &mut reader.worker {
                Some(w) => w.clone_from(cx.waker()),
                None => reader.worker = Some(cx.waker().clone()),
            }
        }
        match &*lock(&self.sender) {
            Some(sender) => sender.poll_ready(cx),
            None => Poll::Ready(Err(Gone)),
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

/// The client's side: a channel that tells the worker at once when it is dropped.
struct Outgoing {
    body: Body,
    stream: Arc<Stream>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut reader = lock(&self.stream.reader);
        reader.gone = true;
        let worker = reader.worker.take();
        drop(reader);
        if let Some(w) = worker {
            w.wake();
        }
    }
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
