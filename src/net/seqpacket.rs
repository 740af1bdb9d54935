//! `SeqPacket`: a Unix socket that keeps the boundaries of messages, and passes descriptors.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    io::ioctl_fionread,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
        recvmsg, sendmsg, shutdown, socketpair, sockopt,
    },
};
use tokio::{
    io::unix::AsyncFd,
    runtime::{self, Handle},
    time::sleep,
};

use super::async_fd::{register_copy_for_writes, register_shared_for_reads};

/// The pause between attempts to send to a full socket that could not be registered for writes: 10 ms.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Minimum size of a send buffer, which limits the size of a message: 208 KiB, the kernel's usual default.
const SEND_BUFFER: usize = 208 << 10;

/// Creates a pair of connected sockets in blocking mode, which programs expect of an inherited socket. A small
/// `net.core.wmem_default` does not limit their messages, but `net.core.wmem_max` does.
///
/// # Errors
/// Those of socketpair(2).
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (ours, theirs) = socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
    raise_send_buffer(&ours)?;
    raise_send_buffer(&theirs)?;
    Ok((ours, theirs))
}

/// Makes the send buffer of a socket at least [`SEND_BUFFER`].
fn raise_send_buffer(socket: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_send_buffer_size(socket)? < SEND_BUFFER {
        // The kernel doubles the number, socket(7).
        sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER / 2)?;
    }
    Ok(())
}

/// One end of a pair, in a runtime.
#[derive(Debug)]
pub(crate) struct SeqPacket {
    socket: Arc<OwnedFd>,
    registration: Mutex<Registration>,
}

/// The registration of a socket with a runtime, for reads only. The kernel would report each message that the other side
/// reads as space for the next one, and wake the runtime for it.
#[derive(Debug)]
struct Registration {
    socket: AsyncFd<Arc<OwnedFd>>,
    runtime: runtime::Id,
}

impl Registration {
    fn new(socket: &Arc<OwnedFd>) -> io::Result<Self> {
        let runtime = Handle::current().id();
        Ok(Self { socket: register_shared_for_reads(socket.clone())?, runtime })
    }
}

/// A received message. An empty message is the end of the stream: the other socket is closed.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// Whether the buffer was too small for it.
    pub(crate) is_truncated: bool,
    pub(crate) descriptor: Option<OwnedFd>,
    /// Whether the kernel has dropped a descriptor, since this process can open no more (`MSG_CTRUNC`, recvmsg(2)).
    pub(crate) is_descriptor_lost: bool,
}

impl Received {
    /// Returns whether a descriptor was sent with the message.
    pub(crate) fn has_descriptor(&self) -> bool {
        self.descriptor.is_some() || self.is_descriptor_lost
    }
}

impl SeqPacket {
    /// Registers a socket with the current runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let registration = Mutex::new(Registration::new(&socket)?);
        Ok(Self { socket, registration })
    }

    /// Registers the socket with the current runtime instead of the one before. No task may be waiting for it.
    ///
    /// # Errors
    /// Those of epoll_ctl(2). Then the socket remains in its runtime, which wakes tasks of all others too.
    pub(crate) fn change_runtime(&self) -> io::Result<()> {
        let mut registration = self.registration();
        // epoll(7) allows one registration of a descriptor: in the same runtime a second one would fail.
        if registration.runtime != Handle::current().id() {
            *registration = Registration::new(&self.socket)?;
        }
        Ok(())
    }

    fn registration(&self) -> MutexGuard<'_, Registration> {
        // Nothing panics while the lock is held.
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, and up to [`MAX_DESCRIPTORS`] descriptors with it.
    ///
    /// # Errors
    /// Those of sendmsg(2): `EPIPE` or `ECONNRESET` if the other socket is closed.
    pub(crate) async fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        match send_now(&self.socket, message, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        let copy = register_copy_for_writes(&self.socket);
        self.send_when_writable(copy, message, fds).await
    }

    /// Sends a message when the socket has space. Without a registered copy, since no descriptor is free, it tries again
    /// every [`RETRY_PAUSE`]: the other side is not to blame.
    async fn send_when_writable(
        &self,
        copy: io::Result<AsyncFd<OwnedFd>>,
        message: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let Ok(copy) = copy else {
            loop {
                sleep(RETRY_PAUSE).await;
                match send_now(&self.socket, message, fds) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            }
        };
        loop {
            let mut guard = copy.writable().await?;
            if let Ok(result) = guard.try_io(|socket| send_now(socket.get_ref(), message, fds)) {
                return result;
            }
        }
    }

    /// Sends a message if that does not block.
    ///
    /// # Errors
    /// As for [`send`](Self::send), and `EAGAIN`.
    pub(crate) fn try_send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_now(&self.socket, message, fds)
    }

    /// Receives a message.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Received>> {
        let registration = self.registration();
        loop {
            let mut guard = ready!(registration.socket.poll_read_ready(cx))?;
            match guard.try_io(|socket| recv_now(socket.get_ref(), buffer)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    /// Sets the size of the send buffer.
    #[cfg(test)]
    pub(crate) fn set_send_buffer(&self, bytes: usize) {
        sockopt::set_socket_send_buffer_size(&*self.socket, bytes).unwrap();
    }

    /// Shuts down both directions. The other side can still read the messages that were sent.
    pub(crate) fn close(&self) {
        let _ = shutdown(&*self.socket, Shutdown::Both); // fails only if the other side has ended it
    }
}

/// Returns the number of bytes that were sent to `socket` and not read from it.
///
/// # Errors
/// Those of ioctl(2).
pub(crate) fn unread(socket: &OwnedFd) -> io::Result<u64> {
    Ok(ioctl_fionread(socket)?) // unix(7), SIOCINQ
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
    let is_descriptor_lost = descriptor.is_none() && message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received { len: message.bytes, is_truncated, descriptor, is_descriptor_lost })
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use rustix::io::Errno;

    use super::*;

    async fn receive(socket: &SeqPacket, buffer: &mut [u8]) -> usize {
        poll_fn(|cx| socket.poll_recv(cx, buffer)).await.unwrap().len
    }

    #[tokio::test]
    async fn full_socket_delays_message_until_others_are_read() {
        // The second one as if no descriptor were free.
        for has_copy in [true, false] {
            let (ours, theirs) = pair().unwrap();
            let (ours, theirs) = (SeqPacket::new(ours).unwrap(), SeqPacket::new(theirs).unwrap());
            let mut sent = 0;
            while ours.try_send(&[1; 4096], &[]).is_ok() {
                sent += 1;
            }
            let send = async {
                if has_copy {
                    return ours.send(&[2; 4096], &[]).await;
                }
                ours.send_when_writable(Err(Errno::MFILE.into()), &[2; 4096], &[]).await
            };
            let mut send = pin!(send);
            let is_pending = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending, "the socket is full");
            let mut buffer = [0; 8192];
            let read = async {
                for _ in 0..sent {
                    receive(&theirs, &mut buffer).await;
                }
                receive(&theirs, &mut buffer).await;
                buffer[0]
            };
            let (result, last) = tokio::join!(send, read);
            assert_eq!((result.is_ok(), last), (true, 2), "{has_copy}");
        }
    }

    #[test]
    fn send_buffer_does_not_depend_on_its_default() {
        let (ours, _theirs) = pair().unwrap();
        sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
        send_now(&ours, &[1; 100_000], &[]).unwrap_err();
        raise_send_buffer(&ours).unwrap();
        send_now(&ours, &[1; 160 << 10], &[]).unwrap();
    }

    #[tokio::test]
    async fn message_that_is_read_does_not_wake_its_sender() {
        let (ours, theirs) = pair().unwrap();
        let (ours, theirs) = (SeqPacket::new(ours).unwrap(), SeqPacket::new(theirs).unwrap());
        ours.try_send(b"request", &[]).unwrap();
        receive(&theirs, &mut [0; 16]).await;
        tokio::task::yield_now().await; // to the poller
        let is_woken = poll_fn(|cx| {
            let registration = ours.registration();
            Poll::Ready(registration.socket.poll_write_ready(cx).is_ready())
        });
        assert!(!is_woken.await);
    }

    #[test]
    fn socket_that_cannot_change_its_runtime_remains_in_it() {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (own, other, ended) = (runtime(), runtime(), runtime());
        let (ours, theirs) = pair().unwrap();
        let ours = own.block_on(async { SeqPacket::new(ours).unwrap() });
        let handle = ended.handle().clone();
        drop(ended);
        {
            let _entered = handle.enter();
            ours.change_runtime().unwrap_err();
        }
        for runtime in [own, other] {
            runtime.block_on(async {
                ours.change_runtime().unwrap();
                let mut buffer = [0; 8];
                let mut received = pin!(receive(&ours, &mut buffer));
                let is_pending =
                    poll_fn(|cx| Poll::Ready(received.as_mut().poll(cx).is_pending())).await;
                assert!(is_pending);
                send_now(&theirs, b"request", &[]).unwrap();
                assert_eq!(received.await, 7);
            });
        }
    }
}
