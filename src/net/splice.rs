//! `Pipe`: moves bytes from one socket to another by splice(2), without a copy in user space.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::io::Interest;

use super::Stream;

/// Maximum number of bytes that are moved into a pipe at once: 64 KiB, its usual capacity.
const STEP: usize = 64 << 10;

/// Empty pipes that a thread keeps for its next transfers.
const MAX_KEPT: usize = 16;

thread_local! {
    static KEPT: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe between two sockets. If it is empty when it is dropped, the thread keeps it for another transfer.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// The reading and the writing end; `None` once it is dropped.
    ends: Option<(OwnedFd, OwnedFd)>,
    len: usize,
}

impl Pipe {
    /// Returns an empty pipe.
    pub(crate) fn acquire() -> io::Result<Self> {
        let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
        let ends = match kept {
            Some(ends) => ends,
            None => pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?,
        };
        Ok(Self { ends: Some(ends), len: 0 })
    }

    /// Returns the bytes in the pipe.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Moves bytes out of a socket into the pipe, which must be empty; 0 is the end of the stream.
    pub(crate) fn poll_fill(&mut self, from: &Stream, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        debug_assert!(self.len == 0, "a full pipe cannot be told from an empty socket");
        let Some((_, write)) = &self.ends else { return Poll::Ready(Ok(0)) };
        let n = ready!(from.poll_call(cx, Interest::READABLE, |socket| {
            splice(socket, None, write, None, STEP, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
        }))?;
        self.len = n;
        Poll::Ready(Ok(n))
    }

    /// Moves bytes out of the pipe into a socket.
    pub(crate) fn poll_drain(&mut self, to: &Stream, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let (Some((read, _)), len) = (&self.ends, self.len) else { return Poll::Ready(Ok(0)) };
        let n = ready!(to.poll_call(cx, Interest::WRITABLE, |socket| {
            splice(read, None, socket, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
        }))?;
        if n == 0 {
            return Poll::Ready(Err(Errno::PIPE.into()));
        }
        self.len -= n;
        Poll::Ready(Ok(n))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(ends) = self.ends.take() else { return };
        if self.len == 0 {
            // The stack may be destroyed already when the thread ends.
            let _ = KEPT.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < MAX_KEPT {
                    kept.push(ends);
                }
            });
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
    async fn pipe_moves_bytes_between_sockets_and_reports_the_end() {
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        let (from, to) = (Stream::from(from), Stream::from(to));
        let mut pipe = Pipe::acquire().unwrap();
        sender.write_all(b"hello").await.unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(&from, cx)).await.unwrap(), 5);
        assert_eq!(pipe.len(), 5);
        assert_eq!(poll_fn(|cx| pipe.poll_drain(&to, cx)).await.unwrap(), 5);
        let mut got = [0; 5];
        receiver.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        drop(sender);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(&from, cx)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn pipe_is_kept_only_while_it_is_empty() {
        let kept = || KEPT.with_borrow(Vec::len);
        let before = kept();
        drop(Pipe::acquire().unwrap());
        let (mut sender, from) = UnixStream::pair().unwrap();
        sender.write_all(b"left").await.unwrap();
        let from = Stream::from(from);
        let mut pipe = Pipe::acquire().unwrap();
        poll_fn(|cx| pipe.poll_fill(&from, cx)).await.unwrap();
        drop(pipe);
        assert!(kept() <= before.max(1), "its bytes must reach no other connection");
        let pipes: Vec<_> = (0..MAX_KEPT + 3).map(|_| Pipe::acquire().unwrap()).collect();
        drop(pipes);
        assert_eq!(kept(), MAX_KEPT);
    }
}
