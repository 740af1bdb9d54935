//! `MaybeTls`: a stream with or without TLS.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::counted::Counted;
use crate::{
    body::{FileSlice, Pipe},
    net::Io,
};

/// A stream with or without TLS, so that one driver serves both.
///
/// Dropping a TLS stream sends `close_notify` if the socket accepts it at once, unless
/// [`reset_on_close`](Io::reset_on_close) was called, so that the peer recognizes an aborted stream.
pub struct MaybeTls<I: Io>(Kind<I>);

enum Kind<I: Io> {
    Plain(I),
    Tls(Box<Secured<I>>),
}

struct Secured<I: Io> {
    stream: TlsStream<Counted<I>>,
    /// Whether `close_notify` was sent, or must not be sent.
    is_closed: bool,
}

/// Wraps a stream without TLS.
pub(crate) fn plain<I: Io>(io: I) -> MaybeTls<I> {
    MaybeTls(Kind::Plain(io))
}

/// Returns the negotiated application protocol of a stream, if any.
#[cfg_attr(
    not(all(feature = "h2", feature = "upstream")),
    allow(dead_code, reason = "for servers")
)]
pub(crate) fn alpn<I: Io>(stream: &MaybeTls<I>) -> Option<&[u8]> {
    stream.alpn()
}

impl<I: Io> MaybeTls<I> {
    /// Wraps a stream after its handshake.
    pub(super) fn secured(stream: impl Into<TlsStream<Counted<I>>>) -> Self {
        Self(Kind::Tls(Box::new(Secured { stream: stream.into(), is_closed: false })))
    }

    /// Returns the underlying stream.
    pub fn get_ref(&self) -> &I {
        match &self.0 {
            Kind::Plain(io) => io,
            Kind::Tls(tls) => &tls.stream.get_ref().0.io,
        }
    }

    fn get_mut(&mut self) -> &mut I {
        match &mut self.0 {
            Kind::Plain(io) => io,
            Kind::Tls(tls) => &mut tls.stream.get_mut().0.io,
        }
    }

    /// Returns the negotiated application protocol (ALPN), if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Tls(tls) => tls.stream.get_ref().1.alpn_protocol(),
        }
    }

    #[cfg(test)]
    pub(super) fn handshake_kind(&self) -> Option<tokio_rustls::rustls::HandshakeKind> {
        match &self.0 {
            Kind::Plain(_) => None,
            Kind::Tls(tls) => tls.stream.get_ref().1.handshake_kind(),
        }
    }
}

impl<I: Io> Drop for Secured<I> {
    fn drop(&mut self) {
        if !self.is_closed {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx); // best effort
        }
    }
}

impl<I: Io> Io for MaybeTls<I> {
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => io.poll_write_more(cx, bytes),
            Kind::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
        }
    }

    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &FileSlice,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => io.poll_send_file(cx, file),
            Kind::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max_len: usize,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => io.poll_fill_pipe(cx, pipe, max_len),
            Kind::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn poll_drain_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => io.poll_drain_pipe(cx, pipe),
            Kind::Tls(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn can_splice(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.can_splice(),
            Kind::Tls(_) => false,
        }
    }

    fn is_read_pending(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.is_read_pending(),
            Kind::Tls(_) => false, // it may have decrypted bytes
        }
    }

    fn is_half_closed(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.is_half_closed(),
            Kind::Tls(_) => false, // its end is a record
        }
    }

    /// Unknown with TLS: the bytes may belong to a session ticket.
    fn has_input(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.has_input(),
            Kind::Tls(_) => false,
        }
    }

    fn can_send_file(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.can_send_file(),
            Kind::Tls(_) => false,
        }
    }

    fn needs_shutdown(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.needs_shutdown(),
            Kind::Tls(_) => true,
        }
    }

    fn recv_queue_empty(&self) -> Option<bool> {
        self.get_ref().recv_queue_empty()
    }

    fn send_queue_len(&self) -> Option<u64> {
        self.get_ref().send_queue_len()
    }

    fn socket_written(&self) -> Option<u64> {
        match &self.0 {
            Kind::Plain(io) => io.socket_written(),
            Kind::Tls(tls) => Some(tls.stream.get_ref().0.written()),
        }
    }

    fn raise_send_limit(&mut self) {
        self.get_mut().raise_send_limit();
    }

    fn reset_on_close(&mut self) {
        if let Kind::Tls(tls) = &mut self.0 {
            tls.is_closed = true;
        }
        self.get_mut().reset_on_close();
    }
}

impl<I: Io> AsyncRead for MaybeTls<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Kind::Tls(tls) => Pin::new(&mut tls.stream).poll_read(cx, buf),
        }
    }
}

impl<I: Io> AsyncWrite for MaybeTls<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Kind::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Kind::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Kind::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Kind::Plain(io) => io.is_write_vectored(),
            Kind::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(io) => Pin::new(io).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Kind::Tls(tls) => {
                let closed = Pin::new(&mut tls.stream).poll_shutdown(cx);
                tls.is_closed |= closed.is_ready();
                closed
            }
        }
    }
}

impl<I: Io> fmt::Debug for MaybeTls<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Plain(_) => "Plain",
            Kind::Tls(_) => "Tls",
        })
    }
}
