//! A connected socket, TCP or Unix.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::SendFlags,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{Address, Io, unsent::unsent};
use crate::body::FileSlice;

/// The most that one `sendfile` moves: 1 MiB, so that other connections get their turn.
const SEND_FILE_STEP: u64 = 1 << 20;

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, without Nagle's delay.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to an address; a name is looked up, and its addresses are tried in turn.
    ///
    /// # Errors
    /// Those of the look-up and of `connect`.
    pub async fn connect(to: &Address) -> io::Result<Self> {
        match to {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host.as_str()).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Runs a system call that writes up to `most` bytes, on the writable socket, until it does not
    /// answer "would block".
    ///
    /// What writes less has filled the socket, and would write nothing the next time. As this costs
    /// `sendfile` as much as a success, the socket is asked instead, which also makes the kernel tell
    /// when there is room again.
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let written = Cell::new(0);
        let attempt = |fd: BorrowedFd<'_>| {
            let n = call(fd)?;
            if n > 0 && n < most && !is_writable(fd) {
                written.set(n);
                return Err(io::ErrorKind::WouldBlock.into()); // the next one, so the runtime waits
            }
            Ok(n)
        };
        loop {
            let result = match self {
                Self::Tcp(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || attempt(s.as_fd()))
                }
                Self::Unix(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || attempt(s.as_fd()))
                }
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && written.get() > 0 => {
                    return Poll::Ready(Ok(written.get()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

/// Has the socket room for a write that is worth it?
fn is_writable(socket: BorrowedFd<'_>) -> bool {
    let mut ask = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
    // If it cannot be asked, whoever writes will see.
    poll(&mut ask, Some(&Timespec::default())).map_or(true, |n| n > 0)
}

impl Io for Stream {
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_writing(cx, bytes.len(), |fd| rustix::net::send(fd, bytes, flags))
    }

    fn unsent(&self) -> Option<u64> {
        match self {
            Self::Tcp(s) => unsent(s),
            Self::Unix(s) => unsent(s),
        }
    }

    fn open_up(&mut self) {
        if let Self::Tcp(s) = self {
            // Failing that, it stays slower than it could be.
            let _ = socket2::SockRef::from(&*s).set_tcp_notsent_lowat(0); // the system's default
        }
    }

    fn reset_on_close(&mut self) {
        if let Self::Tcp(s) = self {
            // Failing that, it is an ordinary close.
            let _ = socket2::SockRef::from(&*s).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>, f: &FileSlice) -> Poll<io::Result<usize>> {
        // Not beyond what is in memory: the kernel would wait for the disk.
        let len = if f.warm_len() > 0 { f.warm_len() } else { f.len() };
        let step = usize::try_from(len.min(SEND_FILE_STEP)).expect("at most 1 MiB");
        self.poll_writing(cx, step, |fd| {
            let mut offset = f.offset();
            match rustix::fs::sendfile(fd, f.file(), Some(&mut offset), step) {
                // A file system, or a special file, that has no such thing.
                Err(Errno::INVAL) => Err(Errno::NOSYS),
                result => result,
            }
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets keep nothing back
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::Write, sync::Arc};

    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// Two ends of TCP, and of a Unix socket.
    async fn pairs() -> [(Stream, Stream); 2] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        [(Stream::Tcp(near), Stream::Tcp(far)), (Stream::Unix(a), Stream::Unix(b))]
    }

    #[tokio::test]
    async fn a_file_that_fills_the_socket_goes_on_when_there_is_room_again() {
        const LEN: usize = 32 << 20;
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        for (mut near, mut far) in pairs().await {
            let mut slice = FileSlice::new(file.clone(), 0, LEN as u64);
            let mut got = Vec::new();
            let mut waited = 0;
            while !slice.is_empty() {
                let send = poll_fn(|cx| Poll::Ready(near.poll_send_file(cx, &slice)));
                match send.await {
                    Poll::Ready(n) => slice.advance(n.unwrap() as u64),
                    Poll::Pending => {
                        waited += 1;
                        // Whoever waits is woken once the other end has read enough.
                        let sent = poll_fn(|cx| near.poll_send_file(cx, &slice));
                        let read = async { while far.read_buf(&mut got).await.unwrap() > 0 {} };
                        tokio::select! {
                            n = sent => slice.advance(n.unwrap() as u64),
                            () = read => unreachable!("it is not closed"),
                        }
                    }
                }
            }
            assert!(waited > 0, "it never was full");
            drop(near);
            far.read_to_end(&mut got).await.unwrap();
            assert!(got == content);
        }
    }
}
