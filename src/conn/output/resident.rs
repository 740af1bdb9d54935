//! Sends files and pipes once their next bytes are in memory.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::runtime::Handle;

use super::{Output, in_kernel::InKernel};
use crate::net::{Io, file_slice::prefetch_next};

impl Output {
    /// Ready when the next bytes of a file are in the page cache. Otherwise `sendfile` would wait for the disk,
    /// and block all connections of this thread.
    pub(super) fn poll_resident(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(InKernel::File(file)) = &mut self.in_kernel else { return Poll::Ready(()) };
        if file.resident_len() > 0 {
            return Poll::Ready(());
        }
        if let Some((to, read)) = &mut self.prefetch {
            let _ = ready!(Pin::new(read).poll(cx)); // errors are reported by the send
            file.mark_resident(*to, now);
            self.prefetch = None;
            return Poll::Ready(());
        }
        // Without a runtime the connection is being dropped, so a blocking read delays no other.
        if Handle::try_current().is_err() {
            return Poll::Ready(());
        }
        self.prefetch = prefetch_next(file, now);
        if self.prefetch.is_some() { self.poll_resident(cx, now) } else { Poll::Ready(()) }
    }

    /// Reads the next bytes of a file or a pipe into `piece`, if they are in memory.
    pub(super) fn read_resident(&mut self, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        if self.poll_resident(cx, now).is_ready() { self.read_piece() } else { Ok(()) }
    }

    fn read_piece(&mut self) -> io::Result<()> {
        let Some(part) = &mut self.in_kernel else { return Ok(()) };
        self.piece = part.read_next()?.unwrap_or_default();
        if part.len() == 0 {
            self.in_kernel = None; // the tail follows the piece then
        }
        Ok(())
    }

    /// Sends from a file or a pipe. Returns `None` if the next bytes were read into `piece` instead.
    pub(super) fn poll_send_in_kernel<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<usize>>> {
        let Some(part) = &mut self.in_kernel else { return Poll::Ready(Ok(Some(0))) };
        match ready!(part.poll_send(io, cx)) {
            Ok(n) => {
                if part.len() == 0 {
                    self.in_kernel = None;
                    self.bytes.extend_from_slice(std::mem::take(&mut self.tail));
                }
                Poll::Ready(Ok(Some(n)))
            }
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                // The connection cannot send it: read the next bytes and write them as a piece.
                self.read_piece()?;
                Poll::Ready(Ok(None))
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }
}
