//! Moves bytes from one socket to another through a [`Pipe`] by splice(2), without a copy in user space.

use std::{
    cell::RefCell,
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::io::Interest;

use super::Stream;
use crate::body::{Ends, Pipe};

/// The capacity of a pipe: 256 KiB, which fits a body of 100 KiB, and saves system calls for larger ones. A user without
/// privileges may have pipes of 64 MiB in total (`pipe-user-pages-soft`); further ones have the kernel's default capacity.
const CAPACITY: usize = 256 << 10;

/// Empty pipes that a thread keeps for its next transfers.
const MAX_KEPT: usize = 16;

/// Maximum number of pipes of the process for bodies: 512. Each has two descriptors, and may hold [`CAPACITY`] for a
/// client that does not read.
const MAX_BODY_PIPES: usize = 512;

/// The number of pipes of the process, including those that threads keep.
static PIPES: Count = Count(AtomicUsize::new(0));

struct Count(AtomicUsize);

impl Count {
    /// Counts another pipe, unless there are `max`.
    fn try_add(&self, max: usize) -> bool {
        let has_room = self.0.fetch_add(1, Relaxed) < max;
        if !has_room {
            self.subtract(1);
        }
        has_room
    }

    fn subtract(&self, n: usize) {
        self.0.fetch_sub(n, Relaxed);
    }
}

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept(Vec::new())) };
}

/// The empty pipes of a thread.
struct Kept(Vec<Ends>);

impl Drop for Kept {
    fn drop(&mut self) {
        PIPES.subtract(self.0.len());
    }
}

impl Pipe {
    /// Returns an empty pipe.
    ///
    /// # Errors
    /// Those of pipe(2).
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for the TCP balancer"))]
    pub(crate) fn acquire() -> io::Result<Self> {
        match pop() {
            Some(pipe) => Ok(pipe),
            None => {
                PIPES.try_add(usize::MAX);
                open()
            }
        }
    }

    /// Returns an empty pipe for a part of a body; `None` if the process has too many, or too many open files.
    pub(crate) fn try_acquire() -> Option<Self> {
        pop().or_else(|| PIPES.try_add(MAX_BODY_PIPES).then(open)?.ok())
    }

    /// Moves up to `max_len` bytes out of a socket into the pipe, which must be empty; 0 is the end of the stream.
    pub(crate) fn poll_fill(
        &mut self,
        from: &Stream,
        max_len: usize,
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty(), "a full pipe cannot be told from an empty socket");
        let Some((_, write)) = self.ends() else { return Poll::Ready(Ok(0)) };
        let max_len = max_len.min(CAPACITY);
        let n = ready!(from.poll_call(cx, Interest::READABLE, |socket| {
            splice(socket, None, write, None, max_len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
        }))?;
        self.record_filled(n);
        Poll::Ready(Ok(n))
    }

    /// Moves bytes out of the pipe into a socket.
    pub(crate) fn poll_drain(&mut self, to: &Stream, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        let (Some((read, _)), len) = (self.ends(), self.len()) else { return Poll::Ready(Ok(0)) };
        let n = ready!(to.poll_call(cx, Interest::WRITABLE, |socket| {
            splice(read, None, socket, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
        }))?;
        if n == 0 {
            return Poll::Ready(Err(Errno::PIPE.into()));
        }
        self.record_drained(n);
        Poll::Ready(Ok(n))
    }
}

fn pop() -> Option<Pipe> {
    let ends = KEPT.try_with(|kept| kept.borrow_mut().0.pop()).ok()??;
    Some(Pipe::new(ends, release))
}

/// Creates a pipe that was counted before.
fn open() -> io::Result<Pipe> {
    let (read, write) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).inspect_err(|_| PIPES.subtract(1))?;
    let _ = fcntl_setpipe_size(&write, CAPACITY); // best effort: a smaller one works as well
    Ok(Pipe::new((read.into(), write.into()), release))
}

/// Keeps a pipe if it is empty, and closes it otherwise.
fn release(ends: Ends, is_empty: bool) {
    let keep = |ends| {
        // The stack may be destroyed already when the thread ends.
        KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            let has_room = kept.0.len() < MAX_KEPT;
            if has_room {
                kept.0.push(ends);
            }
            has_room
        })
    };
    if !is_empty || !keep(ends).unwrap_or(false) {
        PIPES.subtract(1);
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
        assert_eq!(poll_fn(|cx| pipe.poll_fill(&from, CAPACITY, cx)).await.unwrap(), 5);
        assert_eq!(pipe.len(), 5);
        assert_eq!(poll_fn(|cx| pipe.poll_drain(&to, cx)).await.unwrap(), 5);
        let mut got = [0; 5];
        receiver.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        drop(sender);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(&from, CAPACITY, cx)).await.unwrap(), 0);
    }

    #[test]
    fn count_refuses_a_pipe_above_its_maximum() {
        let count = Count(AtomicUsize::new(0));
        assert_eq!([0; 4].map(|_| count.try_add(3)), [true, true, true, false]);
        count.subtract(1);
        assert_eq!([0; 2].map(|_| count.try_add(3)), [true, false]);
    }

    #[tokio::test]
    async fn pipe_is_kept_only_while_it_is_empty() {
        let kept = || KEPT.with_borrow(|kept| kept.0.len());
        let before = kept();
        drop(Pipe::acquire().unwrap());
        let (mut sender, from) = UnixStream::pair().unwrap();
        sender.write_all(b"left").await.unwrap();
        let from = Stream::from(from);
        let mut pipe = Pipe::acquire().unwrap();
        poll_fn(|cx| pipe.poll_fill(&from, CAPACITY, cx)).await.unwrap();
        drop(pipe);
        assert!(kept() <= before.max(1), "its bytes must reach no other connection");
        let pipes: Vec<_> = (0..MAX_KEPT + 3).map(|_| Pipe::acquire().unwrap()).collect();
        drop(pipes);
        assert_eq!(kept(), MAX_KEPT);
    }
}
