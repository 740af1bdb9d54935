//! `Wire`: the stream below `h2`, with the bytes that were read ahead, a meter of frames, and the progress of writes.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    conn::{output::SlowReader, read_ahead::ReadAhead, thread_buffers},
    net::{Io, clock},
    peer::MinRate,
    proto::h2::{Flood, FrameLimits, FrameMeter, Sent, SentFrames},
};

/// Maximum size of collected frames: 16 KiB, the maximum size of a TLS record.
const MAX_COLLECTED: usize = 16 << 10;

/// Minimum size of a write that is not copied: 8 KiB.
const MIN_DIRECT: usize = 8 << 10;

/// Bytes after which reads pause until the driver has taken the data that is not read out of `h2`: 128 KiB. `h2` would
/// read on while the socket has bytes.
const MAX_READ: usize = 128 << 10;

/// Small DATA frames of a client after which reads pause, too: 256. One read has up to 1,700 more of them. `h2` would
/// end the connection as a flood.
const MAX_SMALL_DATA: u32 = 256;

/// A stream for `h2`, which writes and flushes each frame separately. The frames of one poll are collected, and written
/// by [`WireState::poll_flush`] at its end, so that all responses of a poll take one system call and one TLS record.
pub(super) struct Wire<I>(WireState<I>);

/// The connection's stream, which `h2` and the driver share.
pub(super) struct WireState<I>(Arc<Mutex<State<I>>>);

struct State<I> {
    io: I,
    read_ahead: ReadAhead,
    /// Bytes that were read since the last pause of reads.
    read: usize,
    /// Collected frames. The buffer is returned to the thread while it is empty between two polls.
    collected: BytesMut,
    /// Whether the stream itself may hold written bytes, as TLS does.
    is_unflushed: bool,
    /// Whether `h2` has a frame that the stream has not taken.
    is_blocked: bool,
    /// Bytes that `h2` has written, for [`WireState::take_written`].
    written: usize,
    /// `None` for a connection to a server, which is trusted, and whose exchanges have deadlines of their own.
    progress: Option<Progress>,
}

/// The progress of a client's reads and writes.
#[derive(Debug)]
struct Progress {
    meter: FrameMeter,
    sent: SentFrames,
    flood: Option<Flood>,
    rate: MinRate,
    /// `None` while no write waits for the peer.
    reader: Option<SlowReader>,
    /// Whether the last write was incomplete.
    is_write_pending: bool,
}

impl<I: Io> Wire<I> {
    /// Creates the stream of a client, with bounds on what it sends and how slowly it reads.
    pub(super) fn of_client(
        io: I,
        read_ahead: BytesMut,
        rate: MinRate,
        limits: FrameLimits,
    ) -> Self {
        let (meter, sent) = (FrameMeter::new(limits), SentFrames::default());
        let progress =
            Progress { meter, sent, flood: None, rate, reader: None, is_write_pending: false };
        Self::new(io, read_ahead, Some(progress))
    }

    /// Creates the stream of a server.
    pub(super) fn of_server(io: I) -> Self {
        Self::new(io, BytesMut::new(), None)
    }

    fn new(io: I, read_ahead: BytesMut, progress: Option<Progress>) -> Self {
        let (read_ahead, collected) = (ReadAhead::new(read_ahead), BytesMut::new());
        let state = State {
            io,
            read_ahead,
            read: 0,
            collected,
            is_unflushed: false,
            is_blocked: false,
            written: 0,
            progress,
        };
        Self(WireState(Arc::new(Mutex::new(state))))
    }

    pub(super) fn state(&self) -> WireState<I> {
        WireState(self.0.0.clone())
    }
}

impl<I> WireState<I> {
    fn lock(&self) -> MutexGuard<'_, State<I>> {
        // A panic of the stream ends the connection.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the flood of frames that the peer has sent, if there was one.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.lock().progress.as_ref()?.flood
    }

    /// Continues reads after a pause. Returns whether reads have paused: then the driver must first take the data that is
    /// not read out of `h2`.
    pub(super) fn resume_reads(&self) -> bool {
        let mut state = self.lock();
        let has_paused = state.pauses_reads();
        if has_paused {
            state.read = 0;
            if let Some(progress) = &mut state.progress {
                progress.meter.reset_small_data();
            }
        }
        has_paused
    }

    /// Returns the number of bytes that `h2` has written since the last call, and whether its last write was pending.
    pub(super) fn take_written(&self) -> (usize, bool) {
        let mut state = self.lock();
        (std::mem::take(&mut state.written), state.is_blocked)
    }

    /// Returns the number of resets that the client has provoked, of those that were written.
    pub(super) fn provoked_resets(&self) -> u32 {
        self.lock().progress.as_ref().map_or(0, |progress| progress.sent.provoked_resets())
    }

    /// Takes the records of written data, in exchange for an empty list.
    pub(super) fn take_sent(&self, empty: Vec<Sent>) -> Vec<Sent> {
        match &mut self.lock().progress {
            Some(progress) => progress.sent.take(empty),
            None => empty,
        }
    }

    /// Returns the time at which [`is_too_slow`](Self::is_too_slow) must be called.
    pub(super) fn next_update(&self, write: Duration, head: Duration) -> Option<Instant> {
        let state = self.lock();
        let progress = state.progress.as_ref()?;
        let write = progress.reader.as_ref().and_then(|reader| reader.next_update(write));
        [progress.head_deadline(head), write].into_iter().flatten().min()
    }

    /// Returns the time since which written data waits for the socket. `None` while none waits.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let state = self.lock();
        let reader = state.progress.as_ref()?.reader.as_ref();
        reader.map(SlowReader::began)
    }

    /// Returns the last progress of a client for which a write waits. `None` while no write waits.
    pub(super) fn last_progress(&self) -> Option<Instant> {
        let state = self.lock();
        let reader = state.progress.as_ref()?.reader.as_ref();
        reader.map(SlowReader::last_progress)
    }
}

impl<I: Io> WireState<I> {
    /// Returns whether the peer is too slow: it takes nothing from the socket for `write`, or less than the minimum rate,
    /// or takes more than `head` for the head of a request.
    pub(super) fn is_too_slow(&self, now: Instant, write: Duration, head: Duration) -> bool {
        let mut state = self.lock();
        let State { io, progress, .. } = &mut *state;
        let Some(progress) = progress else { return false };
        let has_passed = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        let reads_too_slowly = progress.reader.as_mut().is_some_and(|reader| {
            reader.update(io, now, progress.rate);
            has_passed(reader.deadline(write))
        });
        reads_too_slowly || has_passed(progress.head_deadline(head))
    }

    /// Returns whether the receive queue is empty, as [`Io::recv_queue_empty`] does.
    pub(super) fn recv_queue_empty(&self) -> Option<bool> {
        self.lock().io.recv_queue_empty()
    }

    /// Writes the collected frames. Must be called at the end of each poll of the connection.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_flush(cx)
    }

    /// Writes the collected frames and the end of the stream.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        ready!(state.poll_flush(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }

    /// Reads bytes and discards them. Returns their number, 0 at the end of the stream.
    pub(super) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut discarded = BytesMut::new();
        thread_buffers::poll_read(&mut self.lock().io, cx, &mut discarded)
    }
}

impl Progress {
    fn record_read(&mut self, bytes: &[u8]) {
        if let Err(flood) = self.meter.record(clock::now(), bytes) {
            self.flood = Some(flood);
        }
    }

    /// Returns the time at which the head of a request takes too long.
    fn head_deadline(&self, timeout: Duration) -> Option<Instant> {
        self.meter.head_since()?.checked_add(timeout)
    }

    /// Records the result of a write of `offered` bytes.
    fn record_write(&mut self, io: &impl Io, offered: usize, result: &Poll<io::Result<usize>>) {
        let written = match result {
            Poll::Ready(Ok(n)) => *n,
            Poll::Ready(Err(_)) => return,
            Poll::Pending => 0,
        };
        self.is_write_pending = written < offered;
        match &mut self.reader {
            None if self.is_write_pending => self.begin_wait(io),
            Some(reader) if written > 0 => {
                reader.add_accepted(written as u64);
                // An update is a system call. After a complete write the one of the deadline is early enough.
                if self.is_write_pending {
                    reader.update(io, clock::now(), self.rate);
                }
            }
            _ => {}
        }
    }

    /// Records the result of a flush. A complete write is no proof that the peer reads: TLS accepts bytes while the socket
    /// is full.
    fn record_flush(&mut self, io: &impl Io, is_pending: bool) {
        if !is_pending && !self.is_write_pending {
            self.reader = None;
        } else if is_pending && self.reader.is_none() {
            self.begin_wait(io);
        }
    }

    fn begin_wait(&mut self, io: &impl Io) {
        self.reader = Some(SlowReader::begin(io, clock::now(), self.rate));
    }

    /// Records the frames that were written, of those that were offered.
    fn record_sent(&mut self, bufs: &[IoSlice<'_>], result: &Poll<io::Result<usize>>) {
        let &Poll::Ready(Ok(mut left)) = result else { return };
        for buf in bufs {
            let n = left.min(buf.len());
            self.sent.record(&buf[..n], &mut self.meter);
            left -= n;
        }
    }
}

impl<I> State<I> {
    /// Returns whether enough was read without a pause.
    fn pauses_reads(&self) -> bool {
        let small_data = self.progress.as_ref().map_or(0, |progress| progress.meter.small_data());
        self.read >= MAX_READ || small_data > MAX_SMALL_DATA
    }
}

impl<I: Io> State<I> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.progress.as_ref().is_some_and(|progress| progress.flood.is_some()) {
            return Poll::Pending; // the connection is being closed by its own poll
        }
        if self.pauses_reads() {
            cx.waker().wake_by_ref(); // behind the requests that have been woken
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(self.read_ahead.poll_read(&mut self.io, cx, buf))?;
        self.read += buf.filled().len() - before;
        if let Some(progress) = &mut self.progress {
            progress.record_read(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.poll_collect(cx, bufs);
        self.is_blocked = result.is_pending();
        if let Poll::Ready(Ok(n)) = result {
            self.written = self.written.saturating_add(n);
        }
        result
    }

    /// Collects a small write. A large one is written directly, after the collected frames.
    fn poll_collect(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if self.collected.len() + len > MAX_COLLECTED {
            ready!(self.poll_write_collected(cx))?;
            if len >= MIN_DIRECT {
                let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
                self.is_unflushed = true;
                if let Some(progress) = &mut self.progress {
                    progress.record_write(&self.io, len, &result);
                    progress.record_sent(bufs, &result);
                }
                return result;
            }
        }
        if self.collected.capacity() == 0 {
            self.collected = thread_buffers::take_write_buffer();
            self.collected.reserve(MAX_COLLECTED);
        }
        for buf in bufs {
            self.collected.extend_from_slice(buf);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_write_collected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.collected.is_empty() {
            let result = Pin::new(&mut self.io).poll_write(cx, &self.collected);
            if let Some(progress) = &mut self.progress {
                progress.record_write(&self.io, self.collected.len(), &result);
                progress.record_sent(&[IoSlice::new(&self.collected)], &result);
            }
            let n = ready!(result)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_unflushed = true;
            if n == self.collected.len() {
                self.collected.clear(); // keeps the allocation whole, unlike `advance`
            } else {
                self.collected.advance(n);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_collected(cx))?;
        if self.collected.capacity() > 0 {
            thread_buffers::return_write_buffer(std::mem::take(&mut self.collected));
        }
        if self.is_unflushed {
            let result = Pin::new(&mut self.io).poll_flush(cx);
            if let Some(progress) = &mut self.progress {
                progress.record_flush(&self.io, result.is_pending());
            }
            ready!(result)?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncRead for Wire<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, buf)
    }
}

impl<I: Io> AsyncWrite for Wire<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the driver of either side flushes at the end of its poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}

impl<I> fmt::Debug for WireState<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireState").field("progress", &self.lock().progress).finish_non_exhaustive()
    }
}

impl<I> fmt::Debug for Wire<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wire").field(&self.0).finish()
    }
}

#[cfg(test)]
mod tests;
