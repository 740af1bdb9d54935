//! `H2Stream`: one stream of a connection as a byte stream, after an extended CONNECT (RFC 8441).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unread::Unread;
use crate::net::Io;

/// The data of both directions.
pub(super) struct H2Stream {
    recv: RecvStream,
    send: SendStream<Bytes>,
    /// Data that was received and not yet read. The window is released when it is read.
    received: Bytes,
    /// The data behind it.
    unread: Unread,
    is_shut_down: bool,
}

impl H2Stream {
    pub(super) fn new(recv: RecvStream, send: SendStream<Bytes>) -> Self {
        let (received, unread) = (Bytes::new(), Unread::default());
        Self { recv, send, received, unread, is_shut_down: false }
    }

    /// Returns the data of the next frame; `None` at the end of the stream.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        match self.unread.pop() {
            Some(data) => Poll::Ready(Some(Ok(data))),
            None => self.recv.poll_data(cx),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Io for H2Stream {
    fn receive_ahead(&mut self, cx: &mut Context<'_>) {
        // An error is returned again by the next read.
        while let Poll::Ready(Some(Ok(data))) = self.recv.poll_data(cx) {
            self.unread.push(data);
        }
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        // All that has arrived, since each frame may be a message of a few bytes.
        while buf.remaining() > 0 {
            if this.received.is_empty() {
                match this.poll_next(cx) {
                    Poll::Ready(Some(Ok(data))) => this.received = data,
                    // Anything else is returned again by the next read.
                    _ if buf.filled().len() > before => break,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let n = buf.remaining().min(this.received.len());
            buf.put_slice(&this.received[..n]);
            this.received.advance(n);
        }
        // Cannot fail: the data has been received.
        let _ = this.recv.flow_control().release_capacity(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        let mut room = self.send.capacity();
        if room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = room.min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..n]), false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection sends queued data
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut_down, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}
