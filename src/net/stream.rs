//! A connected socket, TCP or Unix.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionread},
    net::{RecvFlags, SendFlags, Shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::{
    Address, Io, KeepAlive,
    connect::{connect_allowed, connect_tcp},
    send_queue::send_queue_len,
};
use crate::body::{FileSlice, Pipe};

/// The maximum of one `sendfile`, 2 MiB, so that other connections get their turn.
const SEND_FILE_STEP: u64 = 2 << 20;

/// A connected stream socket, TCP (without Nagle's delay) or Unix, registered with one runtime.
#[derive(Debug)]
pub struct Stream(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Kind::Tcp(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream))
    }
}

impl Stream {
    /// Connects to an address. A host name is resolved, and its addresses race: the families take turns, and
    /// the next address is tried when the last has failed or has taken 250 ms (RFC 8305).
    ///
    /// # Errors
    /// Those of the name resolution and of `connect`.
    pub async fn connect(to: &Address) -> io::Result<Self> {
        match to {
            Address::Tcp(host) => {
                let stream = connect_tcp(host).await?;
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Address::Unix(path) => Ok(UnixStream::connect(path).await?.into()),
        }
    }

    /// Connects to `host:port`, but only to an address that `allows` accepts. The caller applies the timeout.
    ///
    /// # Errors
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) if it accepts none of the host's addresses.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for tunnels of clients"))]
    pub(crate) async fn connect_allowed(
        host: &str,
        allows: impl Fn(IpAddr) -> bool,
    ) -> io::Result<Self> {
        let stream = connect_allowed(host, allows).await?;
        stream.set_nodelay(true)?;
        Ok(stream.into())
    }

    /// Sets the options of TCP keep-alive. A new stream has none, unless the system sets them. They have no effect on a Unix
    /// socket.
    pub fn set_keep_alive(&self, options: &KeepAlive) {
        if let Kind::Tcp(stream) = &self.0 {
            options.apply(stream);
        }
    }

    /// Waits until the peer has ended its sending half and all that it has sent was read. Takes nothing from the stream.
    /// Does not end if unread bytes have arrived, or the connection fails.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for `TcpBalance`"))]
    pub(crate) async fn wait_for_eof(&self) {
        let peek = |fd: BorrowedFd<'_>| {
            rustix::net::recv(fd, &mut [0; 1], RecvFlags::PEEK).map(|(n, _)| n)
        };
        match poll_fn(|cx| self.poll_call(cx, Interest::READABLE, peek)).await {
            Ok(0) => {}
            Ok(_) | Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the connection fails, for example by a reset, and returns the error. An end of the peer's sending half is
    /// no failure. Reads nothing.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for `TcpBalance`"))]
    pub(crate) async fn wait_for_error(&self) -> io::Error {
        let ready = match &self.0 {
            Kind::Tcp(s) => s.ready(Interest::ERROR).await,
            Kind::Unix(s) => s.ready(Interest::ERROR).await,
        };
        let error = ready.and_then(|_| socket2::SockRef::from(&self.fd()).take_error());
        error.map_or_else(|e| e, |e| e.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    /// Returns the socket's descriptor.
    fn fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Tcp(s) => s.as_fd(),
            Kind::Unix(s) => s.as_fd(),
        }
    }

    /// Runs `call`, a system call, once the socket is ready for it.
    pub(super) fn poll_call(
        &self,
        cx: &Context<'_>,
        interest: Interest,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        // `poll_*_ready` take a context that they do not change.
        let mut cx = Context::from_waker(cx.waker());
        loop {
            let is_read = interest.is_readable();
            let result = match &self.0 {
                Kind::Tcp(s) => {
                    let ready = if is_read {
                        s.poll_read_ready(&mut cx)
                    } else {
                        s.poll_write_ready(&mut cx)
                    };
                    ready!(ready)?;
                    s.try_io(interest, || Ok(call(s.as_fd())?))
                }
                Kind::Unix(s) => {
                    let ready = if is_read {
                        s.poll_read_ready(&mut cx)
                    } else {
                        s.poll_write_ready(&mut cx)
                    };
                    ready!(ready)?;
                    s.try_io(interest, || Ok(call(s.as_fd())?))
                }
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Runs `call`, a system call that writes up to `max_len` bytes, once the socket is writable.
    ///
    /// A short write has filled the send buffer, and the next call would fail with `EAGAIN`. A failed
    /// `sendfile` costs as much as a successful one, so the socket is polled instead, which also makes the
    /// kernel report the next time that there is room.
    fn poll_writing(
        &mut self,
        cx: &mut Context<'_>,
        max_len: usize,
        call: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let written = Cell::new(0);
        let attempt = |fd: BorrowedFd<'_>| {
            let n = call(fd)?;
            if n > 0 && n < max_len && !is_ready(fd, PollFlags::OUT) {
                written.set(n);
                return Err(io::ErrorKind::WouldBlock.into()); // clears tokio's write readiness
            }
            Ok(n)
        };
        loop {
            let result = match &self.0 {
                Kind::Tcp(s) => {
                    ready!(s.poll_write_ready(cx))?;
                    s.try_io(Interest::WRITABLE, || attempt(s.as_fd()))
                }
                Kind::Unix(s) => {
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

/// Returns whether poll(2) reports one of these events now.
fn is_ready(socket: BorrowedFd<'_>, events: PollFlags) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket, events)];
    // If poll(2) fails, the next read or write reports the error.
    poll(&mut fds, Some(&Timespec::default())).map_or(true, |n| n > 0)
}

impl Io for Stream {
    fn poll_write_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        self.poll_writing(cx, bytes.len(), |fd| rustix::net::send(fd, bytes, flags))
    }

    fn has_input(&self) -> bool {
        is_ready(self.fd(), PollFlags::IN)
    }

    fn is_read_pending(&self) -> bool {
        // Without readiness, tokio does not call the function.
        let is_ready = match &self.0 {
            Kind::Tcp(s) => s.try_io(Interest::READABLE, || Ok(())),
            Kind::Unix(s) => s.try_io(Interest::READABLE, || Ok(())),
        };
        is_ready.is_err()
    }

    fn is_half_closed(&self) -> bool {
        if matches!(self.0, Kind::Tcp(_)) {
            return false;
        }
        let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::RDHUP)];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        let [fd] = fds;
        let events = fd.revents();
        polled.is_ok()
            && events.contains(PollFlags::RDHUP)
            && !events.intersects(PollFlags::HUP | PollFlags::ERR)
    }

    fn can_send_file(&self) -> bool {
        true
    }

    fn recv_queue_empty(&self) -> Option<bool> {
        ioctl_fionread(self.fd()).ok().map(|unread| unread == 0)
    }

    fn send_queue_len(&self) -> Option<u64> {
        send_queue_len(self.fd())
    }

    fn raise_send_limit(&mut self) {
        // Best effort: a Unix socket has no such option.
        let _ = socket2::SockRef::from(&self.fd()).set_tcp_notsent_lowat(0); // the system's default
    }

    fn reset_on_close(&mut self) {
        // Best effort: a Unix socket is closed in order.
        let _ = socket2::SockRef::from(&self.fd()).set_linger(Some(std::time::Duration::ZERO));
    }

    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        max_len: usize,
    ) -> Poll<io::Result<usize>> {
        pipe.poll_fill(self, max_len, cx)
    }

    fn poll_drain_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
    ) -> Poll<io::Result<usize>> {
        pipe.poll_drain(self, cx)
    }

    fn can_splice(&self) -> bool {
        true
    }

    fn poll_send_file(&mut self, cx: &mut Context<'_>, f: &FileSlice) -> Poll<io::Result<usize>> {
        // At most the resident bytes: for others the kernel would wait for the disk.
        let len = if f.resident_len() > 0 { f.resident_len() } else { f.len() };
        let step = usize::try_from(len.min(SEND_FILE_STEP)).expect("at most 2 MiB");
        self.poll_writing(cx, step, |fd| {
            let mut offset = f.offset();
            match rustix::fs::sendfile(fd, f.file(), Some(&mut offset), step) {
                // The file system, or a special file, has no sendfile.
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
        match &mut self.get_mut().0 {
            Kind::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Kind::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Kind::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Kind::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Kind::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets have no buffer in user space
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.fd(), Shutdown::Write) {
            // The connection has already ended.
            Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            result => Poll::Ready(result.map_err(Into::into)),
        }
    }
}

#[cfg(test)]
mod tests;
