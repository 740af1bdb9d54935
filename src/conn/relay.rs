//! `Relay`: copies bytes in both directions between two streams until both have ended.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::time::Sleep;

use super::thread_buffers;
use crate::{
    net::{Io, clock},
    proto::websocket::{FrameScanner, GOING_AWAY, close_frame},
};

/// Maximum number of reads of one direction in one poll before the task yields: 64, which are up to 1 MiB at 16 KiB.
const MAX_READS_PER_POLL: usize = 64;

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) idle_timeout: Duration,
    pub(crate) total_timeout: Option<Duration>,
}

/// Holds bytes between a read of one stream and a write to the other. Its memory is bounded.
pub(crate) trait Carrier<I>: Sized {
    /// Acquires an empty carrier.
    fn acquire() -> io::Result<Self>;
    /// Returns whether it holds no bytes.
    fn is_empty(&self) -> bool;
    /// Performs one read. `Ok(0)` is the end of the stream.
    fn poll_fill(&mut self, from: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
    /// Performs one write, and passes the written bytes to the scanner, if they are in user space.
    fn poll_drain(
        &mut self,
        to: &mut I,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;
}

/// The bytes of one read.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer(BytesMut);

impl<I: Io> Carrier<I> for ReadBuffer {
    fn acquire() -> io::Result<Self> {
        Ok(Self::default())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn poll_fill(&mut self, from: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_buffers::poll_read(from, cx, &mut self.0)
    }

    fn poll_drain(
        &mut self,
        to: &mut I,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let n = ready!(poll_write(to, &self.0, cx))?;
        if let Some(scanner) = scanner {
            scanner.scan(&self.0[..n]);
        }
        self.0.advance(n);
        Poll::Ready(Ok(n))
    }
}

/// Writes at least one byte.
fn poll_write<I: Io>(to: &mut I, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
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
    /// Fires at the earlier one of both timeouts, as of the time when it was armed.
    timer: Option<Pin<Box<Sleep>>>,
}

/// One direction of a connection.
struct Direction<C> {
    /// `None` while it would be empty.
    carrier: Option<C>,
    moved: u64,
    /// Whether bytes were written that may not have been flushed.
    is_unflushed: bool,
    read_ended: bool,
    is_done: bool,
    /// Tracks the boundaries of the written frames, if the protocol is WebSocket.
    scanner: Option<FrameScanner>,
    /// A Close frame to write before the end, unless another frame is incomplete.
    close_frame: BytesMut,
}

impl<C> Default for Direction<C> {
    fn default() -> Self {
        Self {
            carrier: None,
            moved: 0,
            is_unflushed: false,
            read_ended: false,
            is_done: false,
            scanner: None,
            close_frame: BytesMut::new(),
        }
    }
}

/// The stream on which an error occurred.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl<C> Direction<C> {
    /// Copies bytes until no progress is possible. Ready when the direction has ended.
    fn poll<I: Io>(
        &mut self,
        from: &mut I,
        to: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        C: Carrier<I>,
    {
        let mut reads = 0;
        while !self.is_done {
            ready!(self.poll_drain(to, cx))?;
            if self.read_ended {
                ready!(self.poll_close_frame(to, cx)).map_err(Broken::To)?;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                self.is_done = true;
                break;
            }
            if reads == MAX_READS_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            let carrier = match &mut self.carrier {
                Some(carrier) => carrier,
                none => none.insert(C::acquire().map_err(Broken::From)?),
            };
            match carrier.poll_fill(from, cx) {
                Poll::Pending => {
                    self.carrier = None; // an idle connection owns no buffer
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                        self.is_unflushed = false;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the bytes that were read. Ready when none are left.
    fn poll_drain<I: Io>(&mut self, to: &mut I, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        C: Carrier<I>,
    {
        while let Some(carrier) = self.carrier.as_mut().filter(|carrier| !carrier.is_empty()) {
            let n =
                ready!(carrier.poll_drain(to, self.scanner.as_mut(), cx)).map_err(Broken::To)?;
            self.moved += n as u64;
            self.is_unflushed = true;
        }
        if self.read_ended {
            self.carrier = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C> Direction<C> {
    /// Writes the Close frame, unless another frame is incomplete or the peer has sent one.
    fn poll_close_frame<I: Io>(
        &mut self,
        to: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(scanner) = self.scanner.take()
            && (!scanner.is_at_boundary() || scanner.has_closed())
        {
            self.close_frame.clear();
        }
        while !self.close_frame.is_empty() {
            let n = ready!(poll_write(to, &self.close_frame, cx))?;
            self.close_frame.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends reading. A WebSocket gets a Close frame as its last frame, masked with `mask` towards the server.
    fn close(&mut self, mask: Option<[u8; 4]>) {
        if !self.read_ended {
            self.read_ended = true;
            if self.scanner.is_some() {
                self.close_frame.extend(close_frame(GOING_AWAY, mask));
            }
        }
    }
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
            timer: None,
        }
    }

    /// Tracks the frames of a WebSocket in both directions, so that [`poll_close`](Self::poll_close) can close it.
    #[must_use]
    pub(crate) fn with_frames(mut self) -> Self {
        for scanner in [&mut self.up.scanner, &mut self.down.scanner] {
            *scanner = Some(FrameScanner::new());
        }
        self
    }

    /// Copies bytes until the connection has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let before = self.up.moved + self.down.moved;
        let up = self.up.poll(&mut self.client, &mut self.server, cx);
        let down = self.down.poll(&mut self.server, &mut self.client, cx);
        match (&up, &down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Complete),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {}
            _ => {
                if self.up.moved + self.down.moved > before {
                    self.last_moved = clock::now();
                }
                return self.poll_expired(cx);
            }
        }
        Poll::Ready(match (up, down) {
            (Poll::Ready(Err(Broken::From(e))), _) | (_, Poll::Ready(Err(Broken::To(e)))) => {
                End::Client(e)
            }
            (Poll::Ready(Err(Broken::To(e))), _) | (_, Poll::Ready(Err(Broken::From(e)))) => {
                End::Server(e)
            }
            _ => End::Complete,
        })
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

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = clock::now();
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
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next.into())));
            ready!(timer.as_mut().poll(cx));
            self.timer = None; // there was traffic since it was armed
        }
    }

    /// Drops both connections, and resets them unless the transfer is complete. Returns the numbers of bytes that were
    /// copied to the server and to the client.
    pub(crate) fn finish(mut self, end: &End) -> (u64, u64) {
        if !matches!(end, End::Complete | End::Drained) {
            self.client.reset_on_close();
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
