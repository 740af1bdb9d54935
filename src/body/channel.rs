//! A bounded channel as a body.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{
    pipe::Pipe,
    segment::{PollSegment, Segment},
};
use crate::{
    error::{BoxError, Error, Kind},
    sync::{Mutex, MutexGuard},
};

/// The number of queued bytes from which a sender is not ready, 64 KiB: one large read.
pub const CHANNEL_CAPACITY: usize = 64 << 10;

/// The least that a piece counts for, in bytes, since a queue of single bytes takes more memory than their
/// number.
const MIN_PIECE_COST: usize = 256;

/// Each pipe counts at least half of the capacity: it has two file descriptors, however few bytes are in it.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers make them"))]
const MIN_PIPE_COST: usize = CHANNEL_CAPACITY / 2;

/// A queued part of a body.
enum Piece {
    Bytes(Bytes),
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers make them"))]
    Pipe(Pipe),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Pipe(pipe) => pipe.len(),
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len().max(MIN_PIECE_COST),
            Self::Pipe(pipe) => pipe.len().max(MIN_PIPE_COST),
        }
    }
}

/// The reader of the body was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the body was dropped")]
pub struct ReaderDropped;

pub(super) fn new(len: Option<u64>) -> (Sender, Receiver) {
    let shared = Arc::new(Mutex::new(State { remaining: len, ..State::default() }));
    (Sender { shared: Some(shared.clone()) }, Receiver { shared, pipe: None })
}

type Shared = Arc<Mutex<State>>;

#[derive(Default)]
struct State {
    /// Has no empty pieces; their costs add up to `queued`.
    queue: VecDeque<Piece>,
    queued: usize,
    trailers: Option<HeaderMap>,
    /// Set once by the sender: the end or the error that follows the queue.
    end: Option<Result<(), BoxError>>,
    /// The bytes of a declared length that are not yet read.
    remaining: Option<u64>,
    /// Whether the reader has polled and found the queue empty.
    has_demand: bool,
    /// Whether the reader takes pipes.
    accepts_pipes: bool,
    reader_dropped: bool,
    reader: Option<Waker>,
    sender: Option<Waker>,
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // Nothing panics while the lock is held, so a poisoned state is still consistent.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stores the waker of `cx`, without a clone if it wakes the same task.
fn store_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(w) => w.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// The sending end of a [`Body::channel`](super::Body::channel).
///
/// Call [`poll_ready`](Self::poll_ready) before each piece. A sender that is dropped before
/// [`finish`](Self::finish) ends the body with an error, so a truncated body is never taken for a complete
/// one.
pub struct Sender {
    /// `None` after the end was sent.
    shared: Option<Shared>,
}

impl Sender {
    /// Waits until the channel has capacity.
    ///
    /// # Errors
    /// [`ReaderDropped`] if the reader was dropped.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<Result<(), ReaderDropped>> {
        let Some(shared) = &self.shared else { return Poll::Ready(Err(ReaderDropped)) };
        let mut s = lock(shared);
        if s.reader_dropped {
            Poll::Ready(Err(ReaderDropped))
        } else if s.queued < CHANNEL_CAPACITY {
            Poll::Ready(Ok(()))
        } else {
            store_waker(&mut s.sender, cx);
            Poll::Pending
        }
    }

    /// Waits until the reader has polled for data and found none.
    ///
    /// # Errors
    /// [`ReaderDropped`] if the reader was dropped.
    pub fn poll_demand(&self, cx: &Context<'_>) -> Poll<Result<(), ReaderDropped>> {
        let Some(shared) = &self.shared else { return Poll::Ready(Err(ReaderDropped)) };
        let mut s = lock(shared);
        if s.reader_dropped {
            Poll::Ready(Err(ReaderDropped))
        } else if s.has_demand {
            Poll::Ready(Ok(()))
        } else {
            store_waker(&mut s.sender, cx);
            Poll::Pending
        }
    }

    /// Waits until the reader is dropped.
    pub fn poll_closed(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(shared) = &self.shared else { return Poll::Ready(()) };
        let mut s = lock(shared);
        if s.reader_dropped {
            return Poll::Ready(());
        }
        store_waker(&mut s.sender, cx);
        Poll::Pending
    }

    /// Waits until the channel has capacity: [`poll_ready`](Self::poll_ready) as a future.
    ///
    /// # Errors
    /// [`ReaderDropped`] if the reader was dropped.
    pub async fn ready(&self) -> Result<(), ReaderDropped> {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// Sends a piece. It is queued even above the capacity: wait for [`ready`](Self::ready) first.
    ///
    /// # Errors
    /// [`ReaderDropped`] if the reader was dropped; so is the piece.
    pub fn send(&self, data: Bytes) -> Result<(), ReaderDropped> {
        self.send_piece(Piece::Bytes(data))
    }

    /// Returns whether the reader can move pipes to a socket.
    #[cfg(feature = "server")]
    pub(crate) fn accepts_pipes(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| lock(shared).accepts_pipes)
    }

    /// Returns whether the reader waits for a piece.
    #[cfg(feature = "server")]
    pub(crate) fn has_demand(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| lock(shared).has_demand)
    }

    /// Sends the bytes in a pipe, like [`send`](Self::send).
    #[cfg(feature = "server")]
    pub(crate) fn send_pipe(&self, pipe: Pipe) -> Result<(), ReaderDropped> {
        self.send_piece(Piece::Pipe(pipe))
    }

    fn send_piece(&self, piece: Piece) -> Result<(), ReaderDropped> {
        let Some(shared) = &self.shared else { return Err(ReaderDropped) };
        let mut s = lock(shared);
        if s.reader_dropped {
            return Err(ReaderDropped);
        }
        if piece.len() == 0 {
            return Ok(());
        }
        s.queued += piece.cost();
        s.queue.push_back(piece);
        let waker = s.reader.take();
        drop(s);
        wake(waker);
        Ok(())
    }

    /// Ends the body, with these trailers if any.
    pub fn finish(mut self, trailers: Option<HeaderMap>) {
        self.end(trailers, Ok(()));
    }

    /// Ends the body with `error`, which the reader gets after the queued pieces.
    pub fn abort(mut self, error: impl Into<BoxError>) {
        self.end(None, Err(error.into()));
    }

    fn end(&mut self, trailers: Option<HeaderMap>, end: Result<(), BoxError>) {
        let Some(shared) = self.shared.take() else { return };
        let mut s = lock(&shared);
        s.trailers = trailers;
        s.end = Some(end);
        let waker = s.reader.take();
        drop(s);
        wake(waker);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.shared.is_some() {
            self.end(
                None,
                Err(Error::new(
                    Kind::ClientGone,
                    "the sender of the body was dropped before its end",
                )
                .into()),
            );
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// The receiving end, inside a [`Body`](super::Body).
pub(crate) struct Receiver {
    shared: Shared,
    /// A pipe that is being read. Boxed because it is rare, and every layer moves the body.
    pipe: Option<Box<Pipe>>,
}

impl Receiver {
    /// Lets the sender send pipes.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers take them"))]
    pub(super) fn accept_pipes(&self) {
        lock(&self.shared).accepts_pipes = true;
    }

    /// Polls a frame. The bytes of a pipe are read.
    pub(super) fn poll_frame(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(pipe) = &mut self.pipe {
                match pipe.read_next()? {
                    Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    None => self.pipe = None,
                }
            }
            return Poll::Ready(match ready!(self.poll_segment(cx)?) {
                None => None,
                Some(Segment::Bytes(data)) => Some(Ok(Frame::data(data))),
                Some(Segment::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Segment::Pipe(pipe)) => {
                    self.pipe = Some(Box::new(pipe));
                    continue;
                }
                Some(Segment::File(_)) => unreachable!("a channel has no files"),
            });
        }
    }

    pub(super) fn poll_segment(&mut self, cx: &Context<'_>) -> PollSegment {
        if let Some(pipe) = self.pipe.take().filter(|pipe| !pipe.is_empty()) {
            return Poll::Ready(Some(Ok(Segment::Pipe(*pipe))));
        }
        let mut s = lock(&self.shared);
        let out = if let Some(piece) = s.queue.pop_front() {
            s.queued -= piece.cost();
            s.has_demand = false;
            if let Some(remaining) = &mut s.remaining {
                *remaining = remaining.saturating_sub(piece.len() as u64);
            }
            Poll::Ready(Some(Ok(match piece {
                Piece::Bytes(data) => Segment::Bytes(data),
                Piece::Pipe(pipe) => Segment::Pipe(pipe),
            })))
        } else if let Some(trailers) = s.trailers.take() {
            Poll::Ready(Some(Ok(Segment::Trailers(trailers))))
        } else {
            match s.end.take() {
                Some(Ok(())) => {
                    s.end = Some(Ok(()));
                    return Poll::Ready(None);
                }
                Some(Err(e)) => {
                    s.end = Some(Ok(())); // an error is returned once; the body has ended after it
                    return Poll::Ready(Some(Err(e)));
                }
                None => {
                    s.has_demand = true;
                    store_waker(&mut s.reader, cx);
                    Poll::Pending
                }
            }
        };
        let waker = s.sender.take();
        drop(s);
        wake(waker);
        out
    }

    pub(super) fn is_end(&self) -> bool {
        let s = lock(&self.shared);
        self.pending_len() == 0
            && s.queue.is_empty()
            && s.trailers.is_none()
            && matches!(s.end, Some(Ok(())))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match lock(&self.shared).remaining {
            Some(remaining) => SizeHint::with_exact(remaining + self.pending_len()),
            None => SizeHint::default(),
        }
    }

    fn pending_len(&self) -> u64 {
        self.pipe.as_ref().map_or(0, |pipe| pipe.len() as u64)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut s = lock(&self.shared);
        s.reader_dropped = true;
        let rest = std::mem::take(&mut s.queue);
        s.queued = 0;
        let waker = s.sender.take();
        drop(s);
        drop(rest);
        wake(waker);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(w) = waker {
        w.wake();
    }
}

#[cfg(test)]
mod tests;
