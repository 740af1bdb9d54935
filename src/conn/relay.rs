//! `Relay`: moves bytes both ways between two streams until both directions have ended.

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

/// Reads of one direction in one poll before the task yields, 64: with a buffer of 16 KiB, a megabyte.
const MAX_READS_PER_POLL: usize = 64;

/// The timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) idle_timeout: Duration,
    pub(crate) total_timeout: Option<Duration>,
}

/// Holds bytes between a read of one stream and a write to the other. Its memory is bounded.
pub(crate) trait Carrier<I>: Sized {
    /// Creates an empty one.
    fn acquire() -> io::Result<Self>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> bool;
    /// Reads once. `Ok(0)` is the end of the stream.
    fn poll_fill(&mut self, from: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
    /// Writes once, and shows the scanner what was written, if the bytes are at hand.
    fn poll_drain(
        &mut self,
        to: &mut I,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;
}

/// The bytes of one read, 16 KiB at most.
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

/// Writes at least a byte.
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
    /// Both sides have closed it.
    Complete,
    /// There was no traffic for the idle timeout.
    Idle,
    /// It exceeded the total timeout.
    TooLong,
    /// A shutdown has aborted it.
    Aborted,
    /// A shutdown has closed it in order.
    Drained,
    /// The client's connection broke.
    Client(io::Error),
    /// The server's connection broke.
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
    until: Option<Instant>,
    /// Fires at the earlier one of both timeouts at the time when it was set.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The bytes from one stream to the other.
struct Direction<C> {
    /// `None` while it contains no bytes.
    carrier: Option<C>,
    moved: u64,
    /// Whether bytes were written that may not have been flushed.
    is_unflushed: bool,
    read_ended: bool,
    is_done: bool,
    /// Follows the frames that are written, if they are those of WebSocket.
    scanner: Option<FrameScanner>,
    /// A frame to be written before the end, if all frames before it are complete.
    farewell: BytesMut,
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
            farewell: BytesMut::new(),
        }
    }
}

/// The stream of an error.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl<C> Direction<C> {
    /// Moves bytes until no progress is possible. Ready when the direction has ended.
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
                ready!(self.poll_farewell(to, cx)).map_err(Broken::To)?;
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
                    self.carrier = None; // an idle connection has none
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

    /// Writes what was read. Ready when that is done.
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
    /// Writes the last frame, unless another is incomplete or was the last.
    fn poll_farewell<I: Io>(&mut self, to: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(scanner) = self.scanner.take()
            && (!scanner.is_at_boundary() || scanner.has_closed())
        {
            self.farewell.clear();
        }
        while !self.farewell.is_empty() {
            let n = ready!(poll_write(to, &self.farewell, cx))?;
            self.farewell.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads no more. With frames of WebSocket, one that closes is the last.
    fn close(&mut self, mask: Option<[u8; 4]>) {
        if !self.read_ended {
            self.read_ended = true;
            if self.scanner.is_some() {
                self.farewell.extend(close_frame(GOING_AWAY, mask));
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
            until: limits.total_timeout.and_then(|timeout| now.checked_add(timeout)),
            timer: None,
        }
    }

    /// Follows the frames of WebSocket in both directions, so that [`poll_close`](Self::poll_close) can close it.
    #[must_use]
    pub(crate) fn with_frames(mut self) -> Self {
        for scanner in [&mut self.up.scanner, &mut self.down.scanner] {
            *scanner = Some(FrameScanner::new());
        }
        self
    }

    /// Moves bytes until the connection has ended.
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

    /// Ends both directions in order: writes what was read, closes a WebSocket with the code 1001, ends both streams,
    /// and discards what still comes until their peers have ended them, too. Ready then, or when a stream breaks.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let key = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
        self.up.close(Some(key.to_be_bytes()));
        self.down.close(None);
        let up = self.up.poll(&mut self.client, &mut self.server, cx);
        let down = self.down.poll(&mut self.server, &mut self.client, cx);
        let is_pending = up.is_pending() || down.is_pending();
        let rests = [discard(&mut self.client, cx), discard(&mut self.server, cx)];
        if is_pending || rests.iter().any(Poll::is_pending) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let now = clock::now();
            let idle_until = self.last_moved.checked_add(self.limits.idle_timeout);
            if self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(End::TooLong);
            }
            if idle_until.is_some_and(|until| until <= now) {
                return Poll::Ready(End::Idle);
            }
            let Some(until) = [idle_until, self.until].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            let timer =
                self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
            ready!(timer.as_mut().poll(cx));
            self.timer = None; // there was traffic since it was set
        }
    }

    /// Closes both connections: normally after a complete transfer, otherwise by a reset. Returns the numbers of
    /// bytes that were moved to the server and to the client.
    pub(crate) fn finish(mut self, end: &End) -> (u64, u64) {
        if !matches!(end, End::Complete | End::Drained) {
            self.client.reset_on_close();
            self.server.reset_on_close();
        }
        (self.up.moved, self.down.moved)
    }
}

/// Reads and drops what comes. Ready at the end of the stream.
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
