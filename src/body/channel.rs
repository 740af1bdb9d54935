//! A bounded channel as a body.

mod receiver;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;

use super::pipe::Pipe;
use crate::{
    error::{BoxError, Error, Kind},
    sync::{Mutex, MutexGuard},
};

pub(crate) use receiver::Receiver;

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

fn wake(waker: Option<Waker>) {
    if let Some(w) = waker {
        w.wake();
    }
}

#[cfg(test)]
mod tests;
