//! `ReadAhead`: the bytes of a stream that a previous stage has read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// The bytes of a stream that a previous stage has read and not used. They are read before the stream.
#[derive(Debug)]
pub(super) struct ReadAhead(BytesMut);

impl ReadAhead {
    pub(super) fn new(bytes: BytesMut) -> Self {
        Self(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Reads these bytes, and then those of `io`.
    pub(super) fn poll_read<I: AsyncRead + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Pin::new(io).poll_read(cx, buf);
        }
        let n = buf.remaining().min(self.0.len());
        buf.put_slice(&self.0[..n]);
        self.0.advance(n);
        if self.0.is_empty() {
            self.0 = BytesMut::new(); // frees the allocation
        }
        Poll::Ready(Ok(()))
    }
}
