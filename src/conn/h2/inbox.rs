//! `Inbox`: the received data of a stream, which its reader and the driver of the connection share.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use super::unread::Unread;
use crate::{Budget, budget::Lease};

/// The received data of one stream, for its reader. The stream is reset if all of its handles, of which this is one, are
/// dropped before its end.
///
/// A reader may run in another task than the driver, and may stop reading. Meanwhile the data would wait in `h2`, where
/// each DATA frame takes about 300 bytes beside its content, and nothing counts it. So the driver takes it out from time
/// to time, by [`Inboxes::receive`]. The window of the stream, which is released when the data is read, bounds it.
pub(super) struct Inbox(Arc<Mutex<State>>);

struct State {
    recv: RecvStream,
    /// Data that the driver has taken out of `h2`. Its window is not released.
    unread: Unread,
    /// The share of the budget for this data.
    lease: Option<Lease>,
}

/// The inboxes of a connection.
#[derive(Default)]
pub(super) struct Inboxes(Mutex<Vec<Weak<Mutex<State>>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    /// Returns the next data, and releases its window. `None` at the end of the data.
    pub(super) fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut state = lock(&self.0);
        let data = match state.pop() {
            Some(data) => data,
            None => match ready!(state.recv.poll_data(cx)) {
                Some(Ok(data)) => data,
                end => return Poll::Ready(end),
            },
        };
        state.release(data.len());
        Poll::Ready(Some(Ok(data)))
    }

    /// Returns the trailers, after the data.
    pub(super) fn poll_trailers(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        lock(&self.0).recv.poll_trailers(cx)
    }

    /// Returns whether everything was read, and no trailers follow.
    pub(super) fn is_end_stream(&self) -> bool {
        let state = lock(&self.0);
        state.unread.len() == 0 && state.recv.is_end_stream()
    }
}

impl State {
    fn pop(&mut self) -> Option<Bytes> {
        let data = self.unread.pop()?;
        match &mut self.lease {
            Some(lease) if self.unread.len() > 0 => lease.set(self.unread.len() as u64),
            lease => *lease = None,
        }
        Some(data)
    }

    /// Takes received data out of `h2`.
    fn receive(&mut self, budget: &Budget) {
        // `h2` has the difference, so this poll is ready, and does not replace the waker of a reader that waits.
        let mut cx = Context::from_waker(Waker::noop());
        while self.recv.flow_control().used_capacity() > self.unread.len()
            && let Poll::Ready(Some(Ok(data))) = self.recv.poll_data(&mut cx)
        {
            self.unread.push(data);
        }
        if self.unread.len() > 0 {
            let lease = self.lease.get_or_insert_with(|| budget.memory_lease());
            lease.set(self.unread.len() as u64);
        }
    }

    fn release(&mut self, len: usize) {
        // Cannot fail: the data has been received.
        let _ = self.recv.flow_control().release_capacity(len);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // `h2` would release it at the end of the stream, and other streams of the connection may need it before.
        self.release(self.unread.len());
    }
}

impl Inboxes {
    /// Creates the inbox of a stream.
    pub(super) fn open(&self, recv: RecvStream) -> Inbox {
        let inbox = Arc::new(Mutex::new(State { recv, unread: Unread::default(), lease: None }));
        let mut all = lock(&self.0);
        if all.len() == all.capacity() {
            all.retain(|inbox| inbox.strong_count() > 0);
            let len = all.len();
            all.reserve(len.max(1)); // so that the next search is that many streams later
        }
        all.push(Arc::downgrade(&inbox));
        Inbox(inbox)
    }

    /// Takes the data that was received and not read out of `h2`, and counts it in the budget.
    pub(super) fn receive(&self, budget: &Budget) {
        lock(&self.0)
            .retain(|inbox| inbox.upgrade().inspect(|inbox| lock(inbox).receive(budget)).is_some());
    }
}

impl fmt::Debug for Inboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inboxes").field("len", &lock(&self.0).len()).finish()
    }
}
