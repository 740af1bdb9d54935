//! `Relay`: copies bytes in both directions between two streams until both have ended.

mod direction;
mod linger;

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tokio::time::Sleep;

use self::direction::{Broken, Direction};
pub(crate) use self::direction::{Carrier, ReadBuffer};
use self::linger::Linger;
use super::thread_buffers;
use crate::{
    net::{Io, clock},
    proto::websocket::FrameScanner,
};

/// Maximum number of reads of one direction in one poll before the task yields: 64, of up to 128 KiB each.
const MAX_READS_PER_POLL: usize = 64;

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) idle_timeout: Duration,
    pub(crate) total_timeout: Option<Duration>,
}

/// The reason of the end of a forwarded connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// Both peers have ended their sending half.
    Complete,
    /// There was no traffic for the idle timeout.
    Idle,
    /// It exceeded the total timeout.
    TooLong,
    /// A shutdown has aborted it.
    Aborted,
    /// A shutdown has closed it gracefully.
    Drained,
    /// The client's connection failed.
    Client(io::Error),
    /// The server's connection failed.
    Server(io::Error),
}

/// The result of a poll of one direction.
type Copied = Poll<Result<(), Broken>>;

pub(crate) struct Relay<I, C> {
    client: I,
    server: I,
    up: Direction<C>,
    down: Direction<C>,
    limits: Limits,
    /// The time of the last traffic.
    last_moved: Instant,
    /// The end of the total timeout.
    deadline: Option<Instant>,
    /// The task of the last poll, whose reads may be pending.
    waker: Option<Waker>,
    /// Fires at the earlier one of both timeouts, as of the time when it was armed.
    timer: Option<Pin<Box<Sleep>>>,
    /// Set once one connection has failed, while the peer of the other one takes the last bytes.
    linger: Option<Box<Linger>>,
}

impl<I: Io, C: Carrier<I>> Relay<I, C> {
    pub(crate) fn new(client: I, server: I, limits: Limits) -> Self {
        let now = clock::now();
        Self {
            client,
            server,
            up: Direction::default(),
            down: Direction::default(),
            limits,
            last_moved: now,
            deadline: limits.total_timeout.and_then(|timeout| now.checked_add(timeout)),
            waker: None,
            timer: None,
            linger: None,
        }
    }

    /// Sends the bytes of a carrier to the server before those that are read from the client.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for the TCP balancer"))]
    #[must_use]
    pub(crate) fn send_first(mut self, carrier: C) -> Self {
        self.up = Direction::with_carrier(carrier);
        self
    }

    /// Tracks the frames of a WebSocket in both directions, so that [`poll_close`](Self::poll_close) can close it.
    #[must_use]
    pub(crate) fn with_frames(mut self) -> Self {
        for scanner in [&mut self.up.scanner, &mut self.down.scanner] {
            *scanner = Some(FrameScanner::new());
        }
        self
    }

    /// Copies bytes until the connection has ended. If one connection fails, and all bytes to the other one were written
    /// with the end of the stream, it waits until the peer of that one has taken them.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.linger.is_some() {
            return self.poll_linger(cx);
        }
        let before = self.up.moved + self.down.moved;
        let (up, down) = self.poll_directions(cx);
        match (&up, &down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Complete),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {}
            _ => {
                let now = clock::now();
                if self.up.moved + self.down.moved > before {
                    self.last_moved = now;
                }
                return self.poll_expired(now, cx);
            }
        }
        let end = match (up, down) {
            (Poll::Ready(Err(Broken::From(e))), _) | (_, Poll::Ready(Err(Broken::To(e)))) => {
                End::Client(e)
            }
            (Poll::Ready(Err(Broken::To(e))), _) | (_, Poll::Ready(Err(Broken::From(e)))) => {
                End::Server(e)
            }
            _ => End::Complete,
        };
        let intact = match &end {
            End::Server(_) if self.down.is_done => &self.client,
            End::Client(_) if self.up.is_done => &self.server,
            _ => return Poll::Ready(end),
        };
        // A peer that takes a byte from time to time is idle.
        let idle = clock::now().checked_add(self.limits.idle_timeout);
        let deadline = [idle, self.deadline].into_iter().flatten().min();
        self.linger = Some(Box::new(Linger::new(end, intact, deadline)));
        self.poll_linger(cx)
    }

    /// Waits until the peer of the intact connection has taken its bytes.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(linger) = &mut self.linger else { return Poll::Ready(End::Complete) };
        ready!(match linger.end {
            End::Server(_) => linger.poll(&mut self.client, cx),
            _ => linger.poll(&mut self.server, cx),
        });
        Poll::Ready(self.linger.take().map_or(End::Complete, |linger| linger.end))
    }

    /// Polls the directions. Most wake-ups are for one of them.
    fn poll_directions(&mut self, cx: &mut Context<'_>) -> (Copied, Copied) {
        let is_registered = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_registered {
            self.waker = Some(cx.waker().clone());
            self.timer = None; // it would wake the task that has set it
        }
        let mut up = Poll::Pending;
        if !(is_registered && self.up.is_idle(&self.client)) {
            up = self.up.poll(&mut self.client, &mut self.server, cx);
        }
        let mut down = Poll::Pending;
        if !(is_registered && self.down.is_idle(&self.server)) {
            down = self.down.poll(&mut self.server, &mut self.client, cx);
        }
        // A stream that has ended is not read any more, while the other direction waits.
        match (&up, &down) {
            (Poll::Ready(Ok(())), Poll::Pending) => {
                if let Poll::Ready(error) = self.client.poll_reset(cx) {
                    up = Poll::Ready(Err(Broken::From(error)));
                }
            }
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                if let Poll::Ready(error) = self.server.poll_reset(cx) {
                    down = Poll::Ready(Err(Broken::From(error)));
                }
            }
            _ => {}
        }
        (up, down)
    }

    /// Closes both directions gracefully: writes the bytes that were read, closes a WebSocket with the code 1001, shuts
    /// down both sending halves, and discards further input. Ready when both peers have closed, or a stream has failed.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let key = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
        self.up.close(Some(key.to_be_bytes()));
        self.down.close(None);
        let up = self.up.poll(&mut self.client, &mut self.server, cx);
        let down = self.down.poll(&mut self.server, &mut self.client, cx);
        let is_pending = up.is_pending() || down.is_pending();
        let discards = [discard(&mut self.client, cx), discard(&mut self.server, cx)];
        if is_pending || discards.iter().any(Poll::is_pending) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn poll_expired(&mut self, mut now: Instant, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let idle = self.last_moved.checked_add(self.limits.idle_timeout);
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(End::TooLong);
            }
            if idle.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(End::Idle);
            }
            let Some(next) = [idle, self.deadline].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            // It was polled by this task when it was set.
            if self.timer.as_ref().is_some_and(|timer| timer.deadline().into_std() > now) {
                return Poll::Pending;
            }
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next.into())));
            ready!(timer.as_mut().poll(cx));
            self.timer = None; // there was traffic since it was armed
            now = clock::now();
        }
    }

    /// Drops both connections, and resets them unless the transfer is complete. If one has failed, the other one is not
    /// reset if it was sent all bytes and the end of the stream. Returns the numbers of bytes that were copied to the
    /// server and to the client.
    pub(crate) fn finish(mut self, end: &End) -> (u64, u64) {
        let (resets_client, resets_server) = match end {
            End::Complete | End::Drained => (false, false),
            End::Server(_) => (!self.down.is_done, true),
            End::Client(_) => (true, !self.up.is_done),
            End::Idle | End::TooLong | End::Aborted => (true, true),
        };
        if resets_client {
            self.client.reset_on_close();
        }
        if resets_server {
            self.server.reset_on_close();
        }
        (self.up.moved, self.down.moved)
    }
}

/// Reads and discards input. Ready at the end of the stream.
fn discard<I: Io>(io: &mut I, cx: &mut Context<'_>) -> Poll<()> {
    for _ in 0..MAX_READS_PER_POLL {
        let mut buffer = BytesMut::new();
        match ready!(thread_buffers::poll_read(io, cx, &mut buffer)) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Poll::Ready(()),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

#[cfg(test)]
mod tests;
