//! `Io`: the stream that a driver needs: reads, writes, and optionally `sendfile` and `splice`.

use std::{
    io,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::body::{FileSlice, Pipe};

/// A stream that a driver can use.
///
/// All methods have defaults, so an empty `impl` block is enough for any type that reads and writes.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// Writes `bytes`, with the hint that more data follows at once (`MSG_MORE`): the kernel may wait for it
    /// before it sends a packet.
    ///
    /// # Errors
    /// Those of the connection.
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::pin::Pin::new(self).poll_write(cx, bytes)
    }

    /// Sends bytes from the front of `file` without reading them into memory; `Ok(0)` if the file
    /// has shrunk. The caller advances the slice.
    ///
    /// # Errors
    /// Those of the connection; [`Unsupported`](io::ErrorKind::Unsupported), the default, if the stream has
    /// no `sendfile`: then the caller reads the file.
    fn poll_send_file(
        &mut self,
        _cx: &mut Context<'_>,
        _file: &FileSlice,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Moves up to `max_len` bytes that have arrived into `pipe`, which must be empty, without reading them into
    /// memory. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// Those of the connection; [`Unsupported`](io::ErrorKind::Unsupported), the default, if the stream has
    /// no `splice`.
    fn poll_fill_pipe(
        &mut self,
        _cx: &mut Context<'_>,
        _pipe: &mut Pipe,
        _max_len: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Sends bytes of `pipe`, which must not be empty, without reading them into memory.
    ///
    /// # Errors
    /// Those of the connection; [`Unsupported`](io::ErrorKind::Unsupported), the default, if the stream has
    /// no `splice`: then the caller reads the pipe.
    fn poll_drain_pipe(
        &mut self,
        _cx: &mut Context<'_>,
        _pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Returns whether [`poll_fill_pipe`](Self::poll_fill_pipe) and [`poll_drain_pipe`](Self::poll_drain_pipe) may
    /// succeed. Defaults to `false`: then bodies are read.
    fn can_splice(&self) -> bool {
        false
    }

    /// Returns whether a read would return at once: bytes, the end of the stream or an error. `false`, the
    /// default, if unknown. It is asked of the system, which may know more than the runtime.
    fn has_input(&self) -> bool {
        false
    }

    /// Returns whether the next read is certain to be pending, and the waker of the last pending read is registered. It is
    /// asked of the runtime, at a fraction of the cost of a read. `false`, the default, if unknown.
    fn is_read_pending(&self) -> bool {
        false
    }

    /// Returns whether the peer has ended its direction of the connection and still reads the other one. `false`, the
    /// default, if unknown, as with TCP, where a close looks the same.
    fn is_half_closed(&self) -> bool {
        false
    }

    /// Ready when the peer has reset the stream, of which the end was read: no read would show it. Never ready by default.
    fn poll_reset(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Returns whether [`poll_send_file`](Self::poll_send_file) may succeed. Defaults to `false`: then a file is
    /// read, and its first bytes leave with what is queued before them.
    fn can_send_file(&self) -> bool {
        false
    }

    /// Returns whether the peer can only recognize the end of the stream by a shutdown, and not by the close
    /// alone, as with TLS. Defaults to `false`.
    fn needs_shutdown(&self) -> bool {
        false
    }

    /// Returns whether the receive queue is empty; `None`, the default, if unknown.
    fn recv_queue_empty(&self) -> Option<bool> {
        None
    }

    /// Returns the number of bytes in the send queue, which the peer has not yet taken. `None`, the default, if
    /// unknown. The progress of a slow reader shows here before it shows in writes.
    fn send_queue_len(&self) -> Option<u64> {
        None
    }

    /// Returns the number of bytes that were written to the socket, if this stream accepts bytes before its socket does, as
    /// with TLS. `None`, the default, if it accepts what the socket accepts.
    fn socket_written(&self) -> Option<u64> {
        None
    }

    /// Raises the limit of the send queue, for a peer that reads fast. Does nothing by default.
    fn raise_send_limit(&mut self) {}

    /// Makes the next close a reset, which the peer cannot take for an orderly end. Does nothing by
    /// default.
    fn reset_on_close(&mut self) {}
}

/// An in-memory stream, for tests.
impl Io for DuplexStream {}
