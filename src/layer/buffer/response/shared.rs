//! The memory between the task that drains a body and the client that reads it.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame};

use super::End;
use crate::{
    Body,
    error::{BoxError, Error, Kind},
};

/// What each piece counts at least, in bytes: 64, about what it takes to hold it. So a body of
/// single bytes cannot take more memory than the bound says.
const PIECE: usize = 64;

/// What may be joined into one piece when a body turns out complete at once: 64 KiB. Above it,
/// copying costs more than writing several pieces.
const JOIN: usize = 64 << 10;

#[derive(Default)]
struct State {
    /// Never empty slices; their costs add up to `held`.
    queue: VecDeque<Bytes>,
    held: usize,
    trailers: Option<HeaderMap>,
    /// Set once: after the queue comes the end, or this error.
    end: Option<Result<(), BoxError>>,
    /// What is left of a length that was known.
    left: Option<u64>,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

/// The side of the task.
pub(super) struct Feed {
    shared: Arc<Mutex<State>>,
    trailers: Option<HeaderMap>,
    max: usize,
}

/// The side of the client.
pub(super) struct Reader(Arc<Mutex<State>>);

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while the lock is held, so a poisoned one is still whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cost(data: &Bytes) -> usize {
    data.len().max(PIECE)
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(w) => w.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

impl Feed {
    pub(super) fn new(len: Option<u64>, max: usize) -> Self {
        let state = State { left: len, ..State::default() };
        Self { shared: Arc::new(Mutex::new(state)), trailers: None, max }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader(self.shared.clone())
    }

    /// Moves `body` into memory until it ends, or has nothing now, or the bound is reached.
    pub(super) fn poll_drain(&mut self, body: &mut Body, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            ready!(self.poll_room(cx));
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(self.trailers.take())),
                Some(Err(e)) => return Poll::Ready(Err(e)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut s = lock(&self.shared);
        if s.held < self.max || s.queue.is_empty() {
            return Poll::Ready(());
        }
        remember(&mut s.feeder, cx);
        Poll::Pending
    }

    fn push(&self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let mut s = lock(&self.shared);
        s.held += cost(&data);
        s.queue.push_back(data);
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// Tells the reader how the body ended.
    pub(super) fn end(self, end: End) {
        self.set_end(end);
    }

    fn set_end(&self, end: End) {
        let mut s = lock(&self.shared);
        if s.end.is_some() {
            return;
        }
        s.end = Some(end.map(|trailers| s.trailers = trailers));
        let reader = s.reader.take();
        drop(s);
        wake(reader);
    }

    /// The body that was complete at once: bytes if it is simple, else what is in memory.
    pub(super) fn finish(self, end: End) -> Body {
        let mut s = lock(&self.shared);
        let small = s.queue.len() == 1 || s.held <= JOIN;
        if matches!(end, Ok(None)) && small {
            let mut queue = mem::take(&mut s.queue);
            if queue.len() <= 1 {
                return queue.pop_front().unwrap_or_default().into();
            }
            let mut all = BytesMut::with_capacity(queue.iter().map(Bytes::len).sum());
            queue.iter().for_each(|piece| all.extend_from_slice(piece));
            return all.freeze().into();
        }
        let (tx, body) = Body::channel(s.left);
        for piece in mem::take(&mut s.queue) {
            tx.send(piece).expect("its reader is held here");
        }
        match end {
            Ok(trailers) => tx.finish(trailers),
            Err(e) => tx.abort(e),
        }
        body
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Without an end, the body panicked or the runtime is shutting down: never a whole body.
        self.set_end(Err(Error::new(Kind::Internal, "the body's task ended before it").into()));
    }
}

impl Reader {
    pub(super) fn poll_frame(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut s = lock(&self.0);
        if let Some(data) = s.queue.pop_front() {
            s.held -= cost(&data);
            s.left = s.left.map(|left| left.saturating_sub(data.len() as u64));
            let feeder = s.feeder.take();
            drop(s);
            wake(feeder);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = s.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match s.end.replace(Ok(())) {
            Some(Ok(())) => Poll::Ready(None),
            // Told once, then the body is at its end.
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            None => {
                s.end = None;
                remember(&mut s.reader, cx);
                Poll::Pending
            }
        }
    }

    pub(super) fn is_end(&self) -> bool {
        let s = lock(&self.0);
        s.queue.is_empty() && s.trailers.is_none() && matches!(s.end, Some(Ok(())))
    }

    pub(super) fn left(&self) -> Option<u64> {
        lock(&self.0).left
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(w) = waker {
        w.wake();
    }
}
