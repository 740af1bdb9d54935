//! `Acceptor`: accepts connections, and recovers from resets and from exhausted descriptors.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketAddrAny, SocketFlags, acceptfrom_with, getsockname},
};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpStream, UnixStream},
};

use super::{Listener, Stream, async_fd::register_for_reads, is_exhausted};
use crate::peer::Peer;

/// The delay of the next `accept`, 50 ms, after an error that would occur again at once.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Accepts connections from one listener in the current runtime.
///
/// It keeps one descriptor in reserve. When the process has run out of descriptors, it closes the reserve
/// to accept the next client and disconnect it at once: the client sees that it is not served, instead of
/// waiting in the accept queue.
#[derive(Debug)]
pub struct Acceptor {
    listener: AsyncFd<OwnedFd>,
    local: LocalEnd,
    /// Whether a connection was accepted since the runtime last reported readiness.
    accepted_since_ready: AtomicBool,
    /// The descriptor in reserve.
    reserve: Option<File>,
    /// Whether descriptors are exhausted. It is logged once.
    is_exhausted: bool,
}

/// The local end of connections.
#[derive(Debug)]
enum LocalEnd {
    /// The address, if the listener is bound to a single one, which saves a system call for each connection.
    Tcp(Option<SocketAddr>),
    Unix,
}

/// An accepted connection and its client.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// The client.
    pub peer: Peer,
}

impl Acceptor {
    /// Registers a listener with the current runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn new(listener: Listener) -> io::Result<Self> {
        let (socket, local) = match listener {
            Listener::Tcp(s) => {
                let addr = s.local_addr().ok().and_then(|addr| addr.as_socket());
                (s, LocalEnd::Tcp(addr.filter(|addr| !addr.ip().is_unspecified())))
            }
            Listener::Unix(s) => (s, LocalEnd::Unix),
        };
        Ok(Self {
            listener: register_for_reads(socket.into())?,
            local,
            accepted_since_ready: AtomicBool::new(false),
            reserve: open_reserve(),
            is_exhausted: false,
        })
    }

    /// Returns the next connection, registered with the current runtime.
    ///
    /// Errors of single connections are logged. Without free descriptors, clients are accepted and
    /// closed. It never fails.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            match self.accept_unless_exhausted().await {
                Ok(accepted) => return accepted,
                Err(e) => self.refuse_one(&e).await,
            }
        }
    }

    /// Like [`accept`](Self::accept), but fails if there is no free descriptor: the caller can close something and call
    /// this again, or [`refuse_one`](Self::refuse_one).
    pub(crate) async fn accept_unless_exhausted(&mut self) -> io::Result<Accepted> {
        loop {
            match self.try_accept().await {
                Ok(accepted) => {
                    self.is_exhausted = false;
                    return Ok(accepted);
                }
                Err(e) if is_exhausted(&e) => return Err(e),
                Err(e) => self.recover(&e).await,
            }
        }
    }

    /// Returns a connection that is in the accept queue, or why it could not be accepted. `None` if the queue is
    /// empty. Does not wait.
    pub(crate) fn accept_now(&self) -> Option<io::Result<Accepted>> {
        match self.accept_queued(self.listener.get_ref()) {
            Ok((fd, client)) => Some(self.register(fd, client)),
            Err(Errno::AGAIN) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        let (fd, client) = loop {
            let mut ready = self.listener.readable().await?;
            // The outer error means that the queue is empty: wait again.
            if let Ok(result) = ready.try_io(|listener| Ok(self.accept_queued(listener.get_ref())?))
            {
                break result?;
            }
        };
        self.register(fd, client)
    }

    /// Registers an accepted connection with the current runtime.
    fn register(&self, fd: OwnedFd, client: Option<SocketAddrAny>) -> io::Result<Accepted> {
        match self.local {
            LocalEnd::Tcp(local) => {
                let client = client.ok_or(Errno::CONNABORTED)?.try_into()?;
                let local = match local {
                    Some(addr) => addr,
                    None => getsockname(&fd)?.try_into()?,
                };
                let stream = TcpStream::from_std(fd.into())?.into();
                Ok(Accepted { stream, peer: Peer::tcp(client, local) })
            }
            LocalEnd::Unix => {
                let stream = UnixStream::from_std(fd.into())?.into();
                Ok(Accepted { stream, peer: Peer::unix() })
            }
        }
    }

    /// Returns the next connection of the accept queue, if any.
    ///
    /// The kernel creates a socket and its file before it checks the queue: an `accept` of an empty queue
    /// costs as much as a successful one, ten times as much as poll(2). Without the check, the last `accept`
    /// after each wake-up would find the queue empty.
    fn accept_queued(
        &self,
        listener: &OwnedFd,
    ) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        if self.accepted_since_ready.load(Relaxed) {
            let queue = PollFd::new(listener, PollFlags::IN);
            if poll(&mut [queue], Some(&Timespec::default()))? == 0 {
                self.accepted_since_ready.store(false, Relaxed);
                return Err(Errno::AGAIN);
            }
        }
        let accepted = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        self.accepted_since_ready.store(accepted.is_ok(), Relaxed);
        accepted
    }

    async fn recover(&self, error: &io::Error) {
        match errno(error) {
            // Errors of one client before it was accepted, as listed in accept(2).
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::PROTO
                | Errno::PERM
                | Errno::INTR
                | Errno::TIMEDOUT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH,
            ) => tracing::debug!(%error, "a client left before its connection was accepted"),
            // An error of the listener itself, which may be permanent: the delay avoids a busy loop.
            _ => {
                tracing::error!(%error, "cannot accept connections; trying again in 50 ms");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }

    /// Closes the reserve, so that one client can be accepted and disconnected, then opens it again.
    pub(crate) async fn refuse_one(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_exhausted, true) {
            tracing::warn!(%error, "no descriptors left: closing new connections (raise the limit of open files, or lower `connections`)");
        }
        if self.reserve.take().is_some() {
            // The connection that could not be accepted is still queued, so a short timeout is enough.
            let refused = tokio::time::timeout(RETRY_DELAY, self.try_accept()).await;
            drop(refused);
        }
        self.reserve = open_reserve();
        if self.reserve.is_none() {
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn open_reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
