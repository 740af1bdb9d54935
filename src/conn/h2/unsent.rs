//! `Unsent`: the data of an upgraded stream that `h2` holds.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

/// The data of an upgraded stream that was passed to `h2` and that `h2` has not encoded.
///
/// `h2` does not report progress, and discards queued data when the last handle of a stream is dropped before its end.
/// But it drops each piece when it has encoded it, or when the stream is reset.
#[derive(Debug, Default)]
pub(super) struct Unsent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    /// Whether the [`H2Stream`](super::stream::H2Stream) was dropped.
    is_closed: bool,
    /// Whether that was after a failure, so that the peer must not take the stream for complete.
    has_failed: bool,
    /// Woken when `bytes` is 0. The stream uses it, and after its drop the exchange of the server.
    waker: Option<Waker>,
}

/// A piece that counts until it is dropped.
struct Piece {
    data: Box<[u8]>,
    unsent: Arc<Unsent>,
}

impl Unsent {
    /// Locks the state. `h2` drops pieces under its own lock, so `h2` must not be called under this one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies data, and counts it until `h2` drops it.
    pub(super) fn piece(self: &Arc<Self>, data: &[u8]) -> Bytes {
        self.lock().bytes += data.len();
        Bytes::from_owner(Piece { data: data.into(), unsent: self.clone() })
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> usize {
        self.lock().bytes
    }

    /// Records that the stream was dropped.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
    }

    /// Records that the stream is dropped after a failure.
    pub(super) fn fail(&self) {
        self.lock().has_failed = true;
    }

    /// Returns whether the stream was dropped after a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// Returns whether the stream was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Ready when `h2` holds no data.
    pub(super) fn poll_empty(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.bytes == 0 {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.unsent.lock();
        state.bytes -= self.data.len();
        let waker = if state.bytes == 0 { state.waker.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
