//! `Linger`: keeps a connection whose peer has not taken all bytes, after the other one has failed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant as StdInstant},
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{End, discard};
use crate::net::Io;

/// Time within which the peer must take bytes: 5 s, as in nginx (`lingering_timeout`).
const TIMEOUT: Duration = Duration::from_secs(5);

/// The end of a relay of which one connection has failed, and the other one was sent all that there is to send. Its peer
/// may be slow to take the bytes, and may still send: a close would reset the connection, and the bytes would be lost.
pub(super) struct Linger {
    pub(super) end: End,
    /// Bytes that the peer had not taken when the timer was set.
    unsent: u64,
    /// When it ends, also if the peer takes bytes.
    deadline: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn new<I: Io>(end: End, io: &I, deadline: Option<StdInstant>) -> Self {
        let (unsent, deadline) = (io.send_queue_len().unwrap_or(0), deadline.map(Instant::from));
        let timer = Box::pin(sleep_until(next_check(deadline)));
        Self { end, unsent, deadline, timer }
    }

    /// Discards input until the peer has taken all bytes or closed its connection. Ready too if it takes none for
    /// [`TIMEOUT`], at the deadline, or if the stream does not know what it has taken.
    pub(super) fn poll<I: Io>(&mut self, io: &mut I, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let unsent = io.send_queue_len().unwrap_or(0);
            if unsent == 0 || discard(io, cx).is_ready() {
                return Poll::Ready(());
            }
            ready!(self.timer.as_mut().poll(cx)); // the kernel does not tell when the peer has taken bytes
            let has_passed = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            if unsent >= self.unsent || has_passed {
                return Poll::Ready(());
            }
            self.unsent = unsent;
            self.timer.as_mut().reset(next_check(self.deadline));
        }
    }
}

fn next_check(deadline: Option<Instant>) -> Instant {
    let next = Instant::now() + TIMEOUT;
    deadline.map_or(next, |deadline| deadline.min(next))
}
