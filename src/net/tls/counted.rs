//! `Counted`: the stream below TLS, with the number of bytes that were written to it, and bytes that were read ahead.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that counts its written bytes. `rustls` accepts bytes before the socket does, and does not say how many it
/// holds.
pub(super) struct Counted<I> {
    pub(super) io: I,
    written: u64,
    /// Bytes that were read before the stream was wrapped; `None` if there are none left.
    #[allow(
        clippy::box_collection,
        reason = "idle connections have none, and a pointer is smaller"
    )]
    input: Option<Box<BytesMut>>,
}

impl<I> Counted<I> {
    pub(super) fn new(io: I) -> Self {
        Self { io, written: 0, input: None }
    }

    /// Makes the stream begin with bytes that were read ahead.
    pub(super) fn with_input(self, input: BytesMut) -> Self {
        let input = (!input.is_empty()).then(|| Box::new(input));
        Self { input, ..self }
    }

    /// Returns the number of bytes that were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn count(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = result {
            self.written += n as u64;
        }
        result
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Counted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(input) = &mut self.input {
            let piece = input.split_to(input.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if input.is_empty() {
                self.input = None;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Counted<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
