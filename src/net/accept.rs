//! `Acceptor`: accepts connections, also while descriptors are exhausted or clients reset.

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

use super::{Listener, Stream, async_fd::register_for_reads};
use crate::peer::Peer;

/// The delay before a retry, 50 ms, when `accept` fails and would fail again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections from one listener in the current runtime.
///
/// It keeps one descriptor in reserve. When the process has run out of descriptors, it closes the reserve
/// to accept the next client and disconnect it at once: the client sees that it is not served, instead of
/// waiting in the accept queue.
#[derive(Debug)]
pub struct Acceptor {
    listener: AsyncFd<OwnedFd>,
    here: Here,
    /// Whether a connection was accepted since the runtime last reported readiness.
    took_one: AtomicBool,
    reserve: Option<File>,
    /// Whether descriptors are exhausted, and that has been logged.
    exhausted: bool,
}

/// The local end of connections.
#[derive(Debug)]
enum Here {
    /// The address, if the listener is bound to a single one: it saves a system call for each connection.
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
        let (socket, here) = match listener {
            Listener::Tcp(s) => {
                let here = s.local_addr().ok().and_then(|here| here.as_socket());
                (s, Here::Tcp(here.filter(|here| !here.ip().is_unspecified())))
            }
            Listener::Unix(s) => (s, Here::Unix),
        };
        let listener = register_for_reads(socket.into())?;
        let took_one = AtomicBool::new(false);
        Ok(Self { listener, here, took_one, reserve: reserve(), exhausted: false })
    }

    /// Returns the next connection, registered with the current runtime.
    ///
    /// Errors of single connections are logged. Without free descriptors, clients are accepted and
    /// closed. It never fails.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            match self.try_accept().await {
                Ok(accepted) => {
                    self.exhausted = false;
                    return accepted;
                }
                Err(e) => self.recover(&e).await,
            }
        }
    }

    async fn try_accept(&self) -> io::Result<Accepted> {
        let (fd, client) = loop {
            let mut ready = self.listener.readable().await?;
            // The outer error means that the queue is empty: wait again.
            if let Ok(result) = ready.try_io(|listener| Ok(self.take(listener.get_ref())?)) {
                break result?;
            }
        };
        match self.here {
            Here::Tcp(here) => {
                let client = client.ok_or(Errno::CONNABORTED)?.try_into()?;
                let here = match here {
                    Some(here) => here,
                    None => getsockname(&fd)?.try_into()?,
                };
                let stream = TcpStream::from_std(fd.into())?.into();
                Ok(Accepted { stream, peer: Peer::tcp(client, here) })
            }
            Here::Unix => {
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
    fn take(&self, listener: &OwnedFd) -> rustix::io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        if self.took_one.load(Relaxed) {
            let queue = PollFd::new(listener, PollFlags::IN);
            if poll(&mut [queue], Some(&Timespec::default()))? == 0 {
                self.took_one.store(false, Relaxed);
                return Err(Errno::AGAIN);
            }
        }
        let taken = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        self.took_one.store(taken.is_ok(), Relaxed);
        taken
    }

    async fn recover(&mut self, error: &io::Error) {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        match errno {
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
            ) => tracing::debug!(%error, "a client was gone before it was accepted"),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                self.refuse_one(error).await;
            }
            // An error of the listener itself, which may be permanent: the delay avoids a busy loop.
            _ => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Closes the reserve to accept and disconnect one client, then opens it again.
    async fn refuse_one(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.exhausted, true) {
            tracing::warn!(%error, "no descriptors left: connections are refused");
        }
        if self.reserve.take().is_some() {
            // A short timeout is enough: the connection that could not be accepted is still queued.
            let refused = tokio::time::timeout(PAUSE, self.try_accept()).await;
            drop(refused);
        }
        self.reserve = reserve();
        if self.reserve.is_none() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
