//! Accepting, through descriptor exhaustion and other people's resets.

use std::{fs::File, io, net::SocketAddr, time::Duration};

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};

use super::{Listener, Stream};
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
    listener: Kind,
    reserve: Option<File>,
    /// It was said that there are no descriptors, and there has been none since.
    exhausted: bool,
}

#[derive(Debug)]
enum Kind {
    /// With the address that every connection has come to, if it is bound to one: a system call less
    /// for each.
    Tcp(TcpListener, Option<SocketAddr>),
    Unix(UnixListener),
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
        let listener = match listener {
            Listener::Tcp(s) => {
                let listener = TcpListener::from_std(s.into())?;
                let here = listener.local_addr().ok().filter(|here| !here.ip().is_unspecified());
                Kind::Tcp(listener, here)
            }
            Listener::Unix(s) => Kind::Unix(UnixListener::from_std(s.into())?),
        };
        Ok(Self { listener, reserve: reserve(), exhausted: false })
    }

    /// The next connection. Errors of single connections and lack of descriptors are dealt with
    /// here; it never gives up.
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
        match &self.listener {
            Kind::Tcp(l, here) => {
                let (stream, client) = l.accept().await?;
                let here = here.map_or_else(|| stream.local_addr(), Ok)?;
                let peer = Peer::tcp(client, here);
                Ok(Accepted { stream: Stream::Tcp(stream), peer })
            }
            Kind::Unix(l) => {
                let (stream, _) = l.accept().await?;
                Ok(Accepted { stream: Stream::Unix(stream), peer: Peer::unix() })
            }
        }
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
