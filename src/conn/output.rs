//! `Output`: the write queue of a connection: bytes, then a large piece, a file or a pipe, then bytes again.

mod in_kernel;
mod reader;
mod resident;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::oneshot;

use self::in_kernel::InKernel;
use super::thread_buffers;
use crate::{
    body::{FileSlice, Pipe},
    net::Io,
    peer::MinRate,
};

pub(super) use reader::SlowReader;

/// Pieces up to this size, 16 KiB, are copied behind the head, so that one write takes both: copying
/// 16 KiB costs about as much as a second I/O vector.
const MAX_COPIED_PIECE: usize = 16 << 10;

/// While this many bytes are queued, 64 KiB, no further response is started.
const HIGH_WATER_MARK: usize = 64 << 10;

/// Queued data, written in this order: `bytes`, then `piece` or `in_kernel`, then `tail`.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: BytesMut,
    piece: Bytes,
    in_kernel: Option<InKernel>,
    /// The offset up to which the file is being read into the page cache, and the end of that read.
    prefetch: Option<(u64, oneshot::Receiver<()>)>,
    tail: &'static [u8],
    /// Bytes written to the connection so far.
    written: u64,
    /// Whether the stream itself may hold written bytes, as TLS does.
    unflushed: bool,
    /// `None` until a write has to wait for the peer.
    reader: Option<SlowReader>,
}

/// The data that follows a complete flush.
#[derive(Debug, Clone, Copy)]
pub(super) enum AfterFlush {
    /// More data, at an unknown time, or nothing.
    Wait,
    /// The end of the connection. The last bytes share a packet with the FIN, which saves a packet on
    /// each short-lived connection.
    Close,
}

impl Output {
    /// Borrows the thread's write buffer, unless this output has a buffer already.
    pub(super) fn borrow_buffer(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = thread_buffers::take_write_buffer();
        }
    }

    /// Returns the buffer to the thread if it is empty.
    pub(super) fn return_buffer(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            thread_buffers::return_write_buffer(bytes);
        }
    }

    /// Returns the buffer for heads and chunk lines. Must not be called while a piece, a file or a pipe is
    /// queued.
    pub(super) fn head(&mut self) -> &mut BytesMut {
        debug_assert!(
            self.piece.is_empty() && self.in_kernel.is_none(),
            "a head would overtake the piece before it"
        );
        &mut self.bytes
    }

    /// Returns the buffer for the end of a message. Nothing is written to it while a piece, a file or a
    /// pipe is queued: the length of such a body was announced.
    pub(super) fn end(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Returns whether more may be added.
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.in_kernel.is_none() && self.bytes.len() < HIGH_WATER_MARK
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
            && self.piece.is_empty()
            && self.in_kernel.is_none()
            && !self.unflushed
    }

    /// Returns the bytes written to the connection so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Returns the end of the queued data, as a position in the connection's byte stream.
    pub(super) fn end_position(&self) -> u64 {
        let in_kernel = self.in_kernel.as_ref().map_or(0, InKernel::len);
        self.written + (self.buffered() + self.tail.len()) as u64 + in_kernel
    }

    /// Returns the number of queued bytes after the first empty line at or after position `from`.
    pub(super) fn body_len_after(&self, from: u64) -> usize {
        let start = usize::try_from(from.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(start..).unwrap_or_default();
        memchr::memmem::find(bytes, b"\r\n\r\n").map_or(0, |at| bytes.len() - at - 4)
    }

    /// Returns the number of queued bytes that are in memory.
    pub(super) fn buffered(&self) -> usize {
        self.bytes.len() + self.piece.len()
    }

    /// Returns the size of the allocation in bytes. Pieces do not count: they belong to their body.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds a piece of a body, and the `tail` that must follow it.
    pub(super) fn push(&mut self, piece: Bytes, tail: &'static [u8]) {
        if piece.len() <= MAX_COPIED_PIECE {
            self.bytes.extend_from_slice(&piece);
            self.bytes.extend_from_slice(tail);
        } else {
            self.piece = piece;
            self.tail = tail;
        }
    }

    /// Adds a slice of a file, and the `tail` that must follow it.
    pub(super) fn push_file(&mut self, file: FileSlice, tail: &'static [u8]) {
        self.push_in_kernel(InKernel::File(file), tail);
    }

    /// Adds the bytes in a pipe, and the `tail` that must follow them.
    pub(super) fn push_pipe(&mut self, pipe: Pipe, tail: &'static [u8]) {
        self.push_in_kernel(InKernel::Pipe(pipe), tail);
    }

    fn push_in_kernel(&mut self, part: InKernel, tail: &'static [u8]) {
        if part.len() == 0 {
            self.bytes.extend_from_slice(tail);
        } else {
            self.in_kernel = Some(part);
            self.tail = tail;
        }
    }

    /// Returns whether queued data waits for the peer to read.
    pub(super) fn is_waiting(&self) -> bool {
        self.reader.as_ref().is_some_and(SlowReader::is_waiting)
    }

    /// Returns `true` once, when a peer that a write has waited for proves to be a fast reader.
    pub(super) fn report_fast_reader(&mut self) -> bool {
        self.reader.as_mut().is_some_and(SlowReader::report_fast)
    }

    /// Returns the time at which the peer is too slow if it reads nothing until then: it must make progress
    /// within `timeout`, and keep the minimum rate. `None` if no data waits for it.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.reader.as_ref()?.deadline(timeout)
    }

    /// Returns the time of the next [update](Self::update_progress). `None` if no data waits for the peer.
    pub(super) fn next_update(&self, timeout: Duration) -> Option<Instant> {
        self.reader.as_ref()?.next_update(timeout)
    }

    /// Counts what the peer has read from the kernel's send queue, which may hold megabytes, and so moves
    /// the deadline. Must be called when the [time of the next update](Self::next_update) has passed, and before the
    /// peer is given up.
    pub(super) fn update_progress<I: Io>(&mut self, io: &I, now: Instant, rate: MinRate) {
        if let Some(reader) = &mut self.reader {
            reader.update(io, now, rate);
        }
    }

    /// Prepares an empty queue without a buffer for another connection.
    pub(super) fn reset(&mut self) {
        debug_assert!(self.is_empty() && self.bytes.capacity() == 0);
        // Without `..`, so that a new field is not forgotten.
        let Self { bytes: _, piece, in_kernel: _, prefetch, tail, written, unflushed: _, reader } =
            self;
        (*piece, *tail, *written) = (Bytes::new(), b"", 0);
        (*prefetch, *reader) = (None, None);
    }

    /// Drops all queued data.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        let Self { bytes, written, .. } = std::mem::take(self);
        (self.bytes, self.written) = (bytes, written); // the allocation
    }

    /// Writes until the queue is empty. `rate` is the minimum rate of the peer.
    pub(super) fn poll_flush<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        now: Instant,
        rate: MinRate,
        after: AfterFlush,
    ) -> Poll<io::Result<()>> {
        let mut moved = 0;
        let result = self.poll_write_all(io, cx, now, after, &mut moved);
        if let Some(reader) = &mut self.reader {
            reader.add_accepted(moved);
        }
        // The peer's clock stops while no data is queued for it, and while a disk is read.
        let is_waiting = !self.is_empty() && self.prefetch.is_none();
        match &mut self.reader {
            Some(reader) if is_waiting => {
                reader.resume(now);
                if moved > 0 {
                    reader.update(io, now, rate);
                }
            }
            Some(reader) => reader.pause(now),
            None if is_waiting => self.reader = Some(SlowReader::begin(io, now, rate)),
            None => {}
        }
        result
    }

    fn poll_write_all<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        now: Instant,
        after: AfterFlush,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.has_data() {
            let is_read = self.in_kernel.as_ref().is_some_and(|part| !part.is_sent_by(io));
            if is_read && self.piece.is_empty() {
                // One write, and one record of TLS, takes the head and the first bytes of the part.
                self.read_resident(cx, now)?;
            }
            let n = if !self.piece.is_empty() {
                ready!(self.poll_write_both(io, cx))?
            } else if self.bytes.is_empty() {
                ready!(self.poll_resident(cx, now));
                let Some(n) = ready!(self.poll_send_in_kernel(io, cx))? else { continue };
                n
            } else {
                let n = if self.in_kernel.is_some() || matches!(after, AfterFlush::Close) {
                    ready!(io.poll_write_more(cx, &self.bytes))?
                } else {
                    ready!(Pin::new(&mut *io).poll_write(cx, &self.bytes))?
                };
                self.advance_bytes(n);
                n
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *moved += n as u64;
            self.written += n as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn has_data(&self) -> bool {
        !self.bytes.is_empty() || !self.piece.is_empty() || self.in_kernel.is_some()
    }

    fn advance_bytes(&mut self, n: usize) {
        if n == self.bytes.len() {
            self.bytes.clear(); // keeps the allocation whole, unlike `advance`
        } else {
            self.bytes.advance(n);
        }
    }

    fn poll_write_both<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let slices = [IoSlice::new(&self.bytes), IoSlice::new(&self.piece)];
        let slices = if self.bytes.is_empty() { &slices[1..] } else { &slices[..] };
        let n = ready!(Pin::new(io).poll_write_vectored(cx, slices))?;
        let from_bytes = n.min(self.bytes.len());
        self.advance_bytes(from_bytes);
        self.piece.advance(n - from_bytes);
        if self.piece.is_empty() {
            self.piece = Bytes::new(); // an empty slice would keep the whole piece alive
            if self.in_kernel.is_none() {
                self.bytes.extend_from_slice(std::mem::take(&mut self.tail));
            }
        }
        Poll::Ready(Ok(n))
    }
}

#[cfg(test)]
mod tests;
