//! `SeqPacket`: a Unix socket that keeps the boundaries of messages, and passes descriptors.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::{
    io::ioctl_fionread,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
        recvmsg, sendmsg, shutdown, socketpair,
    },
};
use tokio::io::unix::AsyncFd;

use super::async_fd::register_for_both;

/// Creates a pair of connected sockets in blocking mode, which programs expect of an inherited socket.
///
/// # Errors
/// Those of socketpair(2).
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(socketpair(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// One end of a pair, in a runtime.
#[derive(Debug)]
pub(crate) struct SeqPacket(AsyncFd<OwnedFd>);

/// A received message. An empty message is the end of the stream: the other socket is closed.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// Whether the buffer was too small for it.
    pub(crate) is_truncated: bool,
    pub(crate) descriptor: Option<OwnedFd>,
}

impl SeqPacket {
    /// Registers a socket with the current runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        register_for_both(socket).map(Self)
    }

    /// Sends a message, and up to [`MAX_DESCRIPTORS`] descriptors with it.
    ///
    /// # Errors
    /// Those of sendmsg(2): `EPIPE` or `ECONNRESET` if the other socket is closed.
    pub(crate) async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            match send_now(self.0.get_ref(), message, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let mut guard = self.0.writable().await?;
            match guard.try_io(|socket| send_now(socket.get_ref(), message, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a message if that does not block.
    ///
    /// # Errors
    /// As for [`send`](Self::send), and `EAGAIN`.
    pub(crate) fn try_send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_now(self.0.get_ref(), message, fds)
    }

    /// Receives a message.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Received>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|socket| recv_now(socket.get_ref(), buffer)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// Shuts down both directions. The other side can still read the messages that were sent.
    pub(crate) fn close(&self) {
        let _ = shutdown(self.0.get_ref(), Shutdown::Both); // fails only if the other side was closed before
    }
}

/// Returns the number of bytes that were sent to `socket` and not read from it.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn unread(socket: &OwnedFd) -> io::Result<u64> {
    Ok(ioctl_fionread(socket)?) // unix(7), SIOCINQ
}

/// Sends a message on a socket that is not registered with a runtime, if that does not block.
///
/// # Errors
/// As for [`SeqPacket::try_send`].
pub(crate) fn try_send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    send_now(socket, message, &[])
}

/// Receives a message from any socket, if there is one.
///
/// # Errors
/// Those of recvmsg(2), `EAGAIN` among them.
pub(crate) fn try_recv(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    recv_now(socket, buffer)
}

/// Maximum number of descriptors in a message: 128. The kernel's limit is 253 (unix(7)).
pub(crate) const MAX_DESCRIPTORS: usize = 128;

fn send_now(socket: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // A message is sent completely or not at all.
    sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)?;
    Ok(())
}

fn recv_now(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptor = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            descriptor = fds.last();
        }
    }
    let is_truncated = message.flags.contains(ReturnFlags::TRUNC);
    Ok(Received { len: message.bytes, is_truncated, descriptor })
}
