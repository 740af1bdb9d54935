//! `Direction`: copies the bytes of one direction, by a `Carrier`.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncReadExt, task::coop};

use super::MAX_READS_PER_POLL;
use crate::{
    conn::thread_buffers,
    net::Io,
    proto::websocket::{FrameScanner, GOING_AWAY, close_frame},
};

/// Holds bytes between a read of one stream and a write to the other. Its memory is bounded.
pub(crate) trait Carrier<I>: Sized {
    /// Acquires an empty carrier.
    fn acquire() -> Self;
    /// Returns whether it holds no bytes.
    fn is_empty(&self) -> bool;
    /// Performs one read. `Ok(0)` is the end of the stream.
    fn poll_fill(&mut self, from: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;
    /// Performs one write, and passes the written bytes to the scanner, if they are in user space.
    fn poll_drain(
        &mut self,
        to: &mut I,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;
}

/// The bytes of one read, at most 128 KiB. They are in the buffer of the thread until a write is pending, so that a
/// message that is passed on at once is not copied.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer(BytesMut);

/// Bytes that were read before.
impl From<BytesMut> for ReadBuffer {
    fn from(bytes: BytesMut) -> Self {
        Self(bytes)
    }
}

impl<I: Io> Carrier<I> for ReadBuffer {
    fn acquire() -> Self {
        Self::default()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn poll_fill(&mut self, from: &mut I, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        thread_buffers::acquire_read_buffer(&mut self.0);
        let result = pin!(from.read_buf(&mut self.0)).poll(cx);
        if self.0.is_empty() {
            thread_buffers::return_read_buffer(std::mem::take(&mut self.0));
        }
        result
    }

    fn poll_drain(
        &mut self,
        to: &mut I,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(result) = poll_write(to, &self.0, cx) else {
            thread_buffers::release_read_buffer(&mut self.0);
            return Poll::Pending;
        };
        let n = result?;
        if let Some(scanner) = scanner {
            scanner.scan(&self.0[..n]);
        }
        if n < self.0.len() {
            self.0.advance(n);
        } else {
            self.0.clear(); // for the next read, and whole, unlike after `advance`
        }
        Poll::Ready(Ok(n))
    }
}

/// Writes at least one byte.
fn poll_write<I: Io>(to: &mut I, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// One direction of a connection.
pub(super) struct Direction<C> {
    /// `None` while it would be empty.
    carrier: Option<C>,
    /// The number of bytes written.
    pub(super) moved: u64,
    /// Whether bytes were written that may not have been flushed.
    is_unflushed: bool,
    /// Whether the last poll has ended with a pending read, and nothing else is to be done.
    awaits_read: bool,
    read_ended: bool,
    /// Whether all bytes were written, and the end of the stream.
    pub(super) is_done: bool,
    /// Tracks the boundaries of the written frames, if the protocol is WebSocket.
    pub(super) scanner: Option<FrameScanner>,
    /// A Close frame to write before the end, unless another frame is incomplete.
    close_frame: BytesMut,
}

impl<C> Default for Direction<C> {
    fn default() -> Self {
        Self {
            carrier: None,
            moved: 0,
            is_unflushed: false,
            awaits_read: false,
            read_ended: false,
            is_done: false,
            scanner: None,
            close_frame: BytesMut::new(),
        }
    }
}

/// The stream on which an error occurred.
pub(super) enum Broken {
    From(io::Error),
    To(io::Error),
}

impl<C> Direction<C> {
    /// Creates a direction that writes the bytes of a carrier first.
    pub(super) fn with_carrier(carrier: C) -> Self {
        Self { carrier: Some(carrier), ..Self::default() }
    }

    /// Returns whether a poll by the task of the last one would make no progress.
    pub(super) fn is_idle<I: Io>(&self, from: &I) -> bool {
        self.awaits_read && from.is_read_pending()
    }

    /// Copies bytes until no progress is possible. Ready when the direction has ended.
    pub(super) fn poll<I: Io>(
        &mut self,
        from: &mut I,
        to: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        C: Carrier<I>,
    {
        self.awaits_read = false;
        let mut reads = 0;
        while !self.is_done {
            ready!(self.poll_drain(to, cx))?;
            if self.read_ended {
                ready!(self.poll_close_frame(to, cx)).map_err(Broken::To)?;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::To)?;
                self.is_done = true;
                break;
            }
            if reads == MAX_READS_PER_POLL {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            reads += 1;
            match self.carrier.get_or_insert_with(C::acquire).poll_fill(from, cx) {
                Poll::Pending => {
                    self.carrier = None; // an idle connection owns no buffer
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::To)?;
                        self.is_unflushed = false;
                    }
                    // Without budget, tokio has woken the task in place of the registration.
                    self.awaits_read = coop::has_budget_remaining();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::From(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the bytes that were read. Ready when none are left.
    fn poll_drain<I: Io>(&mut self, to: &mut I, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>
    where
        C: Carrier<I>,
    {
        while let Some(carrier) = self.carrier.as_mut().filter(|carrier| !carrier.is_empty()) {
            let n =
                ready!(carrier.poll_drain(to, self.scanner.as_mut(), cx)).map_err(Broken::To)?;
            self.moved += n as u64;
            self.is_unflushed = true;
        }
        if self.read_ended {
            self.carrier = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<C> Direction<C> {
    /// Writes the Close frame, unless another frame is incomplete or the peer has sent one.
    fn poll_close_frame<I: Io>(
        &mut self,
        to: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(scanner) = self.scanner.take()
            && (!scanner.is_at_boundary() || scanner.has_closed())
        {
            self.close_frame.clear();
        }
        while !self.close_frame.is_empty() {
            let n = ready!(poll_write(to, &self.close_frame, cx))?;
            self.close_frame.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends reading. A WebSocket gets a Close frame as its last frame, masked with `mask` towards the server.
    pub(super) fn close(&mut self, mask: Option<[u8; 4]>) {
        self.awaits_read = false;
        if !self.read_ended {
            self.read_ended = true;
            if self.scanner.is_some() {
                self.close_frame.extend(close_frame(GOING_AWAY, mask));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::*;

    /// A stream with one message, whose writes are pending.
    #[derive(Default)]
    struct Blocked {
        has_been_read: bool,
    }

    impl Io for Blocked {}

    impl AsyncRead for Blocked {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            assert!(!std::mem::replace(&mut self.has_been_read, true), "not read again");
            buf.put_slice(b"message");
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Blocked {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn blocked_direction_holds_its_bytes_and_not_the_buffer_of_the_thread() {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut from, mut to) = (Blocked::default(), Blocked::default());
        let mut direction = Direction::<ReadBuffer>::default();
        for _ in 0..3 {
            assert!(direction.poll(&mut from, &mut to, &mut cx).is_pending());
            let ReadBuffer(bytes) = direction.carrier.as_ref().unwrap();
            assert_eq!(&bytes[..], b"message");
            assert!(bytes.capacity() < 1024);
        }
    }
}
