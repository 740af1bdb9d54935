//! What waits to be written: bytes, then a large piece or a file, then bytes again.

mod reader;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{runtime::Handle, sync::oneshot};

use self::reader::SlowReader;
use super::thread_buffers;
use crate::{
    body::FileSlice,
    net::{Io, file_slice::prefetch_next},
    peer::Rate,
};

/// Pieces up to this size are copied behind the head, so that one write takes both: copying 16 KiB
/// costs about as much as a second entry for the kernel to walk.
const MAX_COPIED_PIECE: usize = 16 << 10;

/// Above so many bytes no further response is begun before they are written.
const HIGH_WATER_MARK: usize = 64 << 10;

/// Written in this order: `bytes`, then `piece` or `file`, then `tail`.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: BytesMut,
    piece: Bytes,
    file: Option<FileSlice>,
    /// The file's bytes up to this offset are being read into the page cache.
    prefetch: Option<(u64, oneshot::Receiver<()>)>,
    tail: &'static [u8],
    /// Bytes that the connection has taken so far.
    written: u64,
    /// `None` as long as the peer has taken all at once.
    reader: Option<SlowReader>,
}

/// What follows when all is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum AfterFlush {
    /// Nothing, or nobody knows when.
    Wait,
    /// At once the end of the connection. What it closes with leaves in the packet that says so:
    /// on short-lived connections, one packet less for each.
    Close,
}

impl Output {
    /// Borrows the thread's buffer, unless there is something in this one's own.
    pub(super) fn borrow_buffer(&mut self) {
        if self.bytes.capacity() == 0 {
            self.bytes = thread_buffers::take_write_buffer();
        }
    }

    /// Gives the buffer back if all is written.
    pub(super) fn return_buffer(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            thread_buffers::return_write_buffer(bytes);
        }
    }

    /// Where heads and chunk lines are written. Not behind a piece or a file.
    pub(super) fn head(&mut self) -> &mut BytesMut {
        debug_assert!(
            self.piece.is_empty() && self.file.is_none(),
            "a head would overtake the piece before it"
        );
        &mut self.bytes
    }

    /// Where the end of a message is written. Behind a piece or a file there is none: their length
    /// was announced.
    pub(super) fn end(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// May more be added?
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.file.is_none() && self.bytes.len() < HIGH_WATER_MARK
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.piece.is_empty() && self.file.is_none()
    }

    /// Bytes that the connection has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The position behind all that waits, among all bytes of the connection.
    pub(super) fn end_position(&self) -> u64 {
        let file = self.file.as_ref().map_or(0, FileSlice::len);
        self.written + (self.buffered() + self.tail.len()) as u64 + file
    }

    /// Bytes behind the first empty line that waits at position `from` or behind it.
    pub(super) fn body_len_after(&self, from: u64) -> usize {
        let start = usize::try_from(from.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let bytes = self.bytes.get(start..).unwrap_or_default();
        memchr::memmem::find(bytes, b"\r\n\r\n").map_or(0, |at| bytes.len() - at - 4)
    }

    /// How many of the bytes to be written are in memory.
    pub(super) fn buffered(&self) -> usize {
        self.bytes.len() + self.piece.len()
    }

    /// Bytes of its own that it holds; pieces are somebody else's.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Adds a piece of a body, and what must follow it.
    pub(super) fn push(&mut self, piece: Bytes, tail: &'static [u8]) {
        if piece.len() <= MAX_COPIED_PIECE {
            self.bytes.extend_from_slice(&piece);
            self.bytes.extend_from_slice(tail);
        } else {
            self.piece = piece;
            self.tail = tail;
        }
    }

    /// Adds a slice of a file, and what must follow it.
    pub(super) fn push_file(&mut self, file: FileSlice, tail: &'static [u8]) {
        if file.is_empty() {
            self.bytes.extend_from_slice(tail);
        } else {
            self.file = Some(file);
            self.tail = tail;
        }
    }

    /// Whether something waits for the peer to take it.
    pub(super) fn is_waiting(&self) -> bool {
        self.reader.as_ref().is_some_and(SlowReader::is_waiting)
    }

    /// Whether the peer turns out to read fast, though it had to be waited for. Says so once.
    pub(super) fn report_fast_reader(&mut self) -> bool {
        self.reader.as_mut().is_some_and(SlowReader::report_fast)
    }

    /// When the peer will have taken too little, if it takes nothing until then: something within
    /// `timeout`, and what its pace demands. `None` if nothing waits for it.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.reader.as_ref()?.deadline(timeout)
    }

    /// Counts what the peer has taken of what the kernel holds for it, which may be megabytes, and so
    /// moves the deadline. To be called when the deadline has passed.
    pub(super) fn update_progress<I: Io>(&mut self, io: &I, now: Instant, rate: Rate) {
        if let Some(reader) = &mut self.reader {
            reader.update(io, now, rate);
        }
    }

    /// Drops all that is not written.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        let Self { bytes, written, .. } = std::mem::take(self);
        (self.bytes, self.written) = (bytes, written); // the allocation
    }

    /// Writes until all is written. `rate` is what the peer must take it at.
    pub(super) fn poll_flush<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        now: Instant,
        rate: Rate,
        after: AfterFlush,
    ) -> Poll<io::Result<()>> {
        let mut moved = 0;
        let result = self.poll_write_all(io, cx, now, after, &mut moved);
        if let Some(reader) = &mut self.reader {
            reader.add_accepted(moved);
        }
        // The peer is not waited for while there is nothing for it, or while a disk is read.
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
        while !self.is_empty() {
            let n = if !self.piece.is_empty() {
                ready!(self.poll_write_both(io, cx))?
            } else if self.bytes.is_empty() {
                ready!(self.poll_resident(cx, now));
                let Some(n) = ready!(self.poll_send_file(io, cx))? else { continue };
                n
            } else {
                let n = if self.file.is_some() || matches!(after, AfterFlush::Close) {
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
        }
        Poll::Ready(Ok(()))
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
            if self.file.is_none() {
                self.bytes.extend_from_slice(std::mem::take(&mut self.tail));
            }
        }
        Poll::Ready(Ok(n))
    }

    /// Ready when the file's next bytes are in the page cache: `sendfile` would wait for the disk, and with
    /// it all connections of this thread.
    fn poll_resident(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(file) = self.file.as_mut().filter(|file| file.resident_len() == 0) else {
            return Poll::Ready(());
        };
        if let Some((to, read)) = &mut self.prefetch {
            let _ = ready!(Pin::new(read).poll(cx)); // sending it reports what went wrong
            file.mark_resident(*to, now);
            self.prefetch = None;
            return Poll::Ready(());
        }
        // Without a runtime the connection is being dropped, and blocks no other.
        if Handle::try_current().is_err() {
            return Poll::Ready(());
        }
        self.prefetch = prefetch_next(file, now);
        if self.prefetch.is_some() { self.poll_resident(cx, now) } else { Poll::Ready(()) }
    }

    /// Sends from the file; `None`: it was read, and is to be written.
    fn poll_send_file<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<usize>>> {
        let Some(file) = &mut self.file else { return Poll::Ready(Ok(Some(0))) };
        match ready!(io.poll_send_file(cx, file)) {
            Ok(0) => {
                let e = io::Error::new(io::ErrorKind::UnexpectedEof, "the file has shrunk");
                Poll::Ready(Err(e))
            }
            Ok(n) => {
                file.advance(n as u64);
                if file.is_empty() {
                    self.file = None;
                    self.bytes.extend_from_slice(std::mem::take(&mut self.tail));
                }
                Poll::Ready(Ok(Some(n)))
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                // This connection cannot: read a step, and go on with it as a piece.
                self.piece = file.read_next()?.unwrap_or_default();
                if file.is_empty() {
                    self.file = None; // the tail follows the piece then
                }
                Poll::Ready(Ok(None))
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}

#[cfg(test)]
mod tests;
