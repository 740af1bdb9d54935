//! A connected socket, TCP or Unix.

mod luck;

use std::{
    cell::Cell,
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionread, retry_on_intr},
    net::{SendAncillaryBuffer, SendFlags, Shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpStream, UnixStream},
    runtime::Handle,
};

use super::{
    Address, Io,
    unsent::unsent,
    watched::{for_reads, receive},
};
use crate::body::FileSlice;

/// The most that one `sendfile` moves: 2 MiB, so that other connections get their turn.
const SEND_FILE_STEP: u64 = 2 << 20;

/// A connected stream socket: TCP (without Nagle's delay) or Unix.
///
/// One that was just accepted is not known to the runtime before it has to be waited for: a client
/// that asks once, and whose request is there by then, costs no registration and no removal of one.
/// Under load that is so; where it was not lately, the socket is only looked at now and then. And
/// one that never has to be waited for to write is not known as writable either, which the runtime
/// would be told of each new one.
#[derive(Debug)]
pub struct Stream(State);

#[derive(Debug)]
enum State {
    New(New),
    /// The runtime knows it for reads.
    Reads(AsyncFd<OwnedFd>, Kind),
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The runtime could not take it, and it is closed.
    Gone,
}

/// A socket that the runtime does not know.
#[derive(Debug)]
struct New {
    socket: OwnedFd,
    kind: Kind,
    next: Next,
}

/// What the next read of a new socket will find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Unknown,
    /// The last read took all: what comes then is waited for.
    Nothing,
    Something,
}

/// What a socket is one of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Tcp,
    Unix,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(State::Tcp(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(State::Unix(stream))
    }
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
                Ok(stream.into())
            }
            Address::Unix(path) => Ok(UnixStream::connect(path).await?.into()),
        }
    }

    /// One that was accepted and does not block. Until it is [watched](Self::watch) for all, it is to be
    /// polled by one task.
    pub(super) fn accepted(socket: OwnedFd, kind: Kind) -> Self {
        Self(State::New(New { socket, kind, next: Next::Unknown }))
    }

    /// Has the runtime watch it for reads, if it does not yet.
    fn watch_reads(&mut self) -> io::Result<()> {
        Handle::try_current().map_err(io::Error::other)?;
        match std::mem::replace(&mut self.0, State::Gone) {
            State::New(New { socket, kind, .. }) => {
                self.0 = State::Reads(for_reads(socket)?, kind);
            }
            known => self.0 = known,
        }
        Ok(())
    }

    /// Has the runtime watch it for all, if it does not yet.
    ///
    /// # Errors
    /// Outside of a runtime, and when the kernel has no room for it.
    pub(super) fn watch(&mut self) -> io::Result<()> {
        Handle::try_current().map_err(io::Error::other)?;
        let (socket, kind) = match std::mem::replace(&mut self.0, State::Gone) {
            State::New(New { socket, kind, .. }) => (socket, kind),
            State::Reads(socket, kind) => (socket.into_inner(), kind),
            known => {
                self.0 = known;
                return Ok(());
            }
        };
        self.0 = match kind {
            Kind::Tcp => State::Tcp(TcpStream::from_std(socket.into())?),
            Kind::Unix => State::Unix(UnixStream::from_std(socket.into())?),
        };
        Ok(())
    }

    /// Has it watched for all, for a write that has to wait.
    ///
    /// With the registration for reads goes whom it was to wake. That is this same task, which reads
    /// again for it: nobody else is given a stream that is not known for all.
    fn watch_writes(&mut self, cx: &Context<'_>) -> io::Result<()> {
        match self.0 {
            State::Tcp(_) | State::Unix(_) | State::Gone => return Ok(()),
            State::Reads(..) => cx.waker().wake_by_ref(),
            State::New(_) => {}
        }
        self.watch()
    }

    /// Its descriptor, as long as it has one.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0 {
            State::New(new) => Some(new.socket.as_fd()),
            State::Reads(s, _) => Some(s.get_ref().as_fd()),
            State::Tcp(s) => Some(s.as_fd()),
            State::Unix(s) => Some(s.as_fd()),
            State::Gone => None,
        }
    }

    /// An attempt to write, if it never had to be waited for yet; `None`: watch and wait.
    fn at_once(
        &self,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Option<Poll<io::Result<usize>>> {
        let socket = match &self.0 {
            State::New(new) => &new.socket,
            State::Reads(socket, _) => socket.get_ref(),
            State::Tcp(_) | State::Unix(_) | State::Gone => return None,
        };
        match retry_on_intr(|| call(socket.as_fd())) {
            Err(Errno::AGAIN) => None,
            result => Some(Poll::Ready(result.map_err(Into::into))),
        }
    }

    /// Runs a system call that writes up to `most` bytes, on the writable socket, until it does not
    /// answer "would block".
    ///
    /// What writes less has filled the socket, and would write nothing the next time. As this costs
    /// `sendfile` as much as a success, the socket is asked instead, which also makes the kernel tell
    /// when there is room again.
    fn poll_writing(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if let Some(result) = self.at_once(&call) {
            return result;
        }
        self.watch_writes(cx)?;
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
            let result = match &self.0 {
                State::Tcp(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || attempt(s.as_fd()))
                }
                State::Unix(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || attempt(s.as_fd()))
                }
                State::New(_) | State::Reads(..) | State::Gone => return Poll::Ready(Err(gone())),
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

/// What is said of a socket that the runtime could not take.
fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl New {
    /// What has come by now; `None`: wait for it.
    fn read(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        match self.next {
            Next::Something => {}
            Next::Unknown if luck::tries() => {}
            Next::Unknown | Next::Nothing => return None,
        }
        match receive(&self.socket, buf) {
            Err(Errno::AGAIN) => {
                luck::had(false);
                None
            }
            Ok(drained) => {
                luck::had(true);
                self.next = if drained { Next::Nothing } else { Next::Something };
                Some(Ok(()))
            }
            Err(errno) => Some(Err(errno.into())),
        }
    }
}

fn poll_receive(
    socket: &AsyncFd<OwnedFd>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let mut ready = ready!(socket.poll_read_ready(cx))?;
        match receive(socket.get_ref(), buf) {
            Err(Errno::AGAIN) => ready.clear_ready(),
            Ok(all) => {
                if all {
                    ready.clear_ready(); // the next read would be in vain; an end is kept in mind
                }
                return Poll::Ready(Ok(()));
            }
            Err(errno) => return Poll::Ready(Err(errno.into())),
        }
    }
}

impl Io for Stream {
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_writing(cx, bytes.len(), |fd| rustix::net::send(fd, bytes, flags))
    }

    fn is_drained(&mut self) -> bool {
        let State::New(new) = &mut self.0 else { return false };
        // Nobody is told of what comes; and it is read for certain then.
        let unread = ioctl_fionread(&new.socket).unwrap_or(1) > 0;
        new.next = if unread { Next::Something } else { Next::Nothing };
        !unread
    }

    fn unsent(&self) -> Option<u64> {
        unsent(self.fd()?)
    }

    fn open_up(&mut self) {
        if let Some(fd) = self.fd() {
            // Failing that, it stays slower than it could be. A Unix socket has no such thing.
            let _ = socket2::SockRef::from(&fd).set_tcp_notsent_lowat(0); // the system's default
        }
    }

    fn reset_on_close(&mut self) {
        if let Some(fd) = self.fd() {
            // Failing that, and for a Unix socket, it is an ordinary close.
            let _ = socket2::SockRef::from(&fd).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>, f: &FileSlice) -> Poll<io::Result<usize>> {
        // Not beyond what is in memory: the kernel would wait for the disk.
        let len = if f.warm_len() > 0 { f.warm_len() } else { f.len() };
        let step = usize::try_from(len.min(SEND_FILE_STEP)).expect("at most 2 MiB");
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
        let stream = self.get_mut();
        if let State::New(new) = &mut stream.0 {
            if let Some(result) = new.read(buf) {
                return Poll::Ready(result);
            }
            stream.watch_reads()?;
        }
        match &mut stream.0 {
            State::Reads(s, _) => poll_receive(s, cx, buf),
            State::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            State::Unix(s) => Pin::new(s).poll_read(cx, buf),
            State::New(_) | State::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let send = |fd: BorrowedFd<'_>| rustix::net::send(fd, buf, SendFlags::NOSIGNAL);
        if let Some(result) = stream.at_once(send) {
            return result;
        }
        stream.watch_writes(cx)?;
        match &mut stream.0 {
            State::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            State::Unix(s) => Pin::new(s).poll_write(cx, buf),
            State::New(_) | State::Reads(..) | State::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let send = |fd: BorrowedFd<'_>| {
            let mut nothing = SendAncillaryBuffer::default();
            rustix::net::sendmsg(fd, bufs, &mut nothing, SendFlags::NOSIGNAL)
        };
        if let Some(result) = stream.at_once(send) {
            return result;
        }
        stream.watch_writes(cx)?;
        match &mut stream.0 {
            State::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            State::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            State::New(_) | State::Reads(..) | State::Gone => Poll::Ready(Err(gone())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets keep nothing back
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(fd) = self.fd() else { return Poll::Ready(Err(gone())) };
        match rustix::net::shutdown(fd, Shutdown::Write) {
            // It has ended already.
            Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            result => Poll::Ready(result.map_err(Into::into)),
        }
    }
}

#[cfg(test)]
mod tests;
