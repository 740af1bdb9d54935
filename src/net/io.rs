//! What a driver needs of a connection: bytes both ways, and if it can, files.

use std::{
    io,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::body::FileSlice;

/// A connection that a driver can drive.
///
/// All extra methods have defaults, so that anything that reads and writes can be one: implement
/// the trait with an empty block.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {
    /// Writes `bytes` as the beginning of something larger that follows at once; the kernel may
    /// wait for the rest before it sends a packet.
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
    /// Those of the connection; [`Unsupported`](io::ErrorKind::Unsupported) if it cannot do this,
    /// which is the default, and then the caller reads the file.
    fn poll_send_file(
        &mut self,
        _cx: &mut Context<'_>,
        _file: &FileSlice,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Whether the receive queue is empty. `None`, the default, if only a read can tell.
    fn recv_queue_empty(&self) -> Option<bool> {
        None
    }

    /// Bytes that were written and that the peer has not taken from the kernel yet; `None`, the
    /// default, if nobody knows. A slow reader's progress shows here first.
    fn unsent(&self) -> Option<u64> {
        None
    }

    /// The peer reads fast: the kernel may hold more for it than it does for any peer. By default it
    /// does nothing.
    fn open_up(&mut self) {}

    /// Makes the close that follows an abrupt one, which the peer cannot take for an orderly end.
    /// By default it does nothing.
    fn reset_on_close(&mut self) {}
}

/// Memory, for tests.
impl Io for DuplexStream {}
