//! Moves bytes between two sockets by splice(2), or by a buffer if there is no pipe.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::BytesMut;

use crate::{
    body::Pipe,
    conn::relay::{Carrier, ReadBuffer},
    net::Stream,
    proto::websocket::FrameScanner,
};

/// The most that is moved into a pipe at once, 64 KiB: what a client that does not read may hold in each direction.
const STEP: usize = 64 << 10;

/// Holds the bytes of one direction.
#[derive(Debug)]
pub(super) enum Transfer {
    /// In the kernel.
    Pipe(Pipe),
    /// In a buffer, since no pipe could be made, or the bytes were read before.
    Buffer(ReadBuffer),
}

impl Transfer {
    /// Uses a buffer in place of a pipe that could not be made. The process may have too many open files, and a connection
    /// that was accepted must not fail because of it.
    fn new(pipe: io::Result<Pipe>) -> Self {
        pipe.map_or_else(|_| Self::Buffer(ReadBuffer::default()), Self::Pipe)
    }
}

/// Bytes that were read before.
impl From<BytesMut> for Transfer {
    fn from(bytes: BytesMut) -> Self {
        Self::Buffer(bytes.into())
    }
}

impl Carrier<Stream> for Transfer {
    fn acquire() -> Self {
        Self::new(Pipe::acquire())
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.is_empty(),
            Self::Buffer(buffer) => Carrier::<Stream>::is_empty(buffer),
        }
    }

    fn poll_fill(&mut self, from: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Pipe(pipe) => pipe.poll_fill(from, STEP, cx),
            Self::Buffer(buffer) => buffer.poll_fill(from, cx),
        }
    }

    fn poll_drain(
        &mut self,
        to: &mut Stream,
        scanner: Option<&mut FrameScanner>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Pipe(pipe) => pipe.poll_drain(to, cx),
            Self::Buffer(buffer) => buffer.poll_drain(to, scanner, cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    use super::*;

    #[tokio::test]
    async fn bytes_are_moved_without_a_pipe() {
        let ((mut sender, from), (to, mut receiver)) =
            (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let (mut from, mut to) = (Stream::from(from), Stream::from(to));
        let mut transfer = Transfer::new(Err(rustix::io::Errno::MFILE.into()));
        sender.write_all(b"hello").await.unwrap();
        assert_eq!(poll_fn(|cx| transfer.poll_fill(&mut from, cx)).await.unwrap(), 5);
        assert!(!transfer.is_empty());
        assert_eq!(poll_fn(|cx| transfer.poll_drain(&mut to, None, cx)).await.unwrap(), 5);
        assert!(transfer.is_empty());
        let mut received = [0; 5];
        receiver.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");
    }
}
