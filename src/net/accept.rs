//! Accepting, through descriptor exhaustion and other people's resets.

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

/// How long to pause when accepting fails and would fail again at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections from one listener in the present runtime.
///
/// It keeps one descriptor in reserve. When the process has run out of them, the reserve is given
/// up for a moment to accept the next client and close it at once: the client learns that it is
/// not served, instead of waiting in a queue that nobody empties.
#[derive(Debug)]
pub struct Acceptor {
    listener: AsyncFd<OwnedFd>,
    here: Here,
    /// Something was accepted since the runtime said that there is something.
    took_one: AtomicBool,
    reserve: Option<File>,
    /// It was said that there are no descriptors, and there has been none since.
    exhausted: bool,
}

/// What connections come to.
#[derive(Debug)]
enum Here {
    /// An address, if the listener is bound to one: a system call less for each connection.
    Tcp(Option<SocketAddr>),
    Unix,
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub struct Accepted {
    /// The socket.
    pub stream: Stream,
    /// The client.
    pub peer: Peer,
}

impl Acceptor {
    /// Ties a listener to the present runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
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

    /// Returns the next connection, registered with the present runtime.
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
            // An error says here that there is nothing, and to wait.
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

    /// The next connection of the queue, if there is one.
    ///
    /// The kernel makes a socket and its file before it looks into the queue: an `accept` in vain
    /// costs as much as one that brings something, ten times a look. And each time that the runtime
    /// wakes us, the last one would be in vain.
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
            // What became of one client before it was accepted (accept(2) lists them): its affair.
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
            // The listener itself: it may be beyond help, but must not take the processor along.
            _ => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Gives the reserve up for a moment, to turn a client away that cannot be served.
    async fn refuse_one(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.exhausted, true) {
            tracing::warn!(%error, "no descriptors left: connections are refused");
        }
        if self.reserve.take().is_some() {
            // Not awaited for long: the connection that could not be accepted is still there.
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
