//! `Upload`: the body of a request that is being sent, within the room of its connection.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::sync::{Notify, futures::OwnedNotified};

use super::SEND_BUFFER;
use crate::conn::h2::server::respond::{Outgoing, SendError};

/// Bytes of streamed requests that `h2` may hold for one connection before no more is read from their clients: 1 MiB, the
/// buffers of four requests. `h2` bounds each request alone, and a server with large windows may stop reading.
pub(super) const MAX_QUEUED: usize = 4 * SEND_BUFFER;

/// The room for the bodies of requests in `h2`, which the tasks of requests and the driver of the connection share.
#[derive(Debug, Default)]
pub(super) struct UploadRoom {
    /// An upper bound of the bytes of streamed requests that `h2` holds.
    queued: AtomicUsize,
    /// Notified when half of the room is free.
    freed: Arc<Notify>,
    driver: Mutex<Option<Waker>>,
}

/// The rest of a request.
pub(super) struct Upload {
    pub(super) outgoing: Outgoing,
    /// The wait for room.
    freed: Option<Pin<Box<OwnedNotified>>>,
}

impl Upload {
    pub(super) fn new(outgoing: Outgoing) -> Self {
        Self { outgoing, freed: None }
    }

    /// Sends as far as there is window and room. Adds the number of bytes to `sent`.
    pub(super) fn poll(
        &mut self,
        room: &UploadRoom,
        now: Instant,
        sent: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            let (free, mut n) = (MAX_QUEUED.saturating_sub(room.queued.load(SeqCst)), 0);
            let result = self.outgoing.poll(now, free, &mut n, cx);
            if self.outgoing.is_streamed() && n > 0 {
                room.queued.fetch_add(usize::try_from(n).unwrap_or(usize::MAX), SeqCst);
            }
            *sent += n;
            if result.is_ready() || !self.outgoing.waits_for_room() {
                return result;
            }
            self.outgoing.stall(now); // the server does not read
            let freed =
                self.freed.get_or_insert_with(|| Box::pin(room.freed.clone().notified_owned()));
            // If all was written before this wait began, nothing notifies it.
            if freed.as_mut().poll(cx).is_pending() && room.is_used() {
                room.wake_driver();
                return Poll::Pending;
            }
            self.freed = None;
        }
    }
}

impl UploadRoom {
    /// Sets the task of the driver.
    pub(super) fn set_driver(&self, waker: &Waker) {
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// Makes the driver record what it has written. It may have written data before its bytes were counted.
    fn wake_driver(&self) {
        if let Some(driver) = &*self.driver.lock().unwrap_or_else(PoisonError::into_inner) {
            driver.wake_by_ref();
        }
    }

    /// Returns whether `h2` may hold data of streamed requests.
    pub(super) fn is_used(&self) -> bool {
        self.queued.load(SeqCst) > 0
    }

    /// Records that `h2` has written `bytes`, including other frames, and whether that was all it could.
    pub(super) fn record_written(&self, bytes: usize, is_all: bool) {
        let left = |queued: usize| if is_all { 0 } else { queued.saturating_sub(bytes) };
        let _ = self.queued.fetch_update(SeqCst, SeqCst, |queued| Some(left(queued)));
        if self.queued.load(SeqCst) <= MAX_QUEUED / 2 {
            self.freed.notify_waiters();
        }
    }
}
