//! `Bind`: the address or listener of a server.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use crate::net::{Address, Listener};

/// An address to bind, or a listener that is already bound.
#[derive(Debug)]
pub struct Bind(Kind);

#[derive(Debug)]
enum Kind {
    /// An address that is parsed by `Serve::bind`, which returns the error.
    Text(String),
    Address(Address),
    Listener(Listener),
}

impl Bind {
    /// Returns whether the server makes the listener. One that the caller has passed may outlive the server, for example in
    /// systemd.
    pub(super) fn is_address(&self) -> bool {
        matches!(self.0, Kind::Text(_) | Kind::Address(_))
    }

    /// Returns `n` sockets that share the address.
    pub(super) fn listen(self, n: usize) -> io::Result<(Vec<Listener>, Unlink)> {
        let address = match self.0 {
            Kind::Text(text) => text
                .parse()
                .map_err(|e: io::Error| io::Error::new(e.kind(), format!("cannot listen: {e}")))?,
            Kind::Address(address) => address,
            Kind::Listener(first) => return Ok((spread(first, n)?, Unlink::nothing())),
        };
        let first = Listener::bind(&address, n > 1)?;
        match &address {
            Address::Unix(path) => {
                let unlink = Unlink::new(path)?;
                Ok((spread(first, n)?, unlink))
            }
            Address::Tcp(_) => {
                // The kernel may have chosen the port: the others use that of the first.
                let address = first.local_addr()?;
                let mut all = vec![first];
                for _ in 1..n {
                    all.push(Listener::bind(&address, true)?);
                }
                Ok((all, Unlink::nothing()))
            }
        }
    }
}

/// Clones one socket for all threads: an idle thread accepts the next connection.
fn spread(first: Listener, n: usize) -> io::Result<Vec<Listener>> {
    let mut all = (1..n).map(|_| first.try_clone()).collect::<io::Result<Vec<_>>>()?;
    all.push(first);
    Ok(all)
}

/// Removes the path of a Unix socket when it is dropped, if it is still the one that was bound.
#[derive(Debug)]
pub(super) struct Unlink(Option<(PathBuf, Identity)>);

/// Device and inode.
type Identity = (u64, u64);

impl Unlink {
    fn nothing() -> Self {
        Self(None)
    }

    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self(Some((path.to_owned(), identity(path)?))))
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Some((path, bound)) = self.0.take()
            && identity(&path).is_ok_and(|now| now == bound)
        {
            // It may have been removed already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self(Kind::Text(text.to_owned()))
    }
}

impl From<String> for Bind {
    fn from(text: String) -> Self {
        Self(Kind::Text(text))
    }
}

impl From<Address> for Bind {
    fn from(address: Address) -> Self {
        Self(Kind::Address(address))
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Address::from(address).into()
    }
}

impl From<Listener> for Bind {
    fn from(listener: Listener) -> Self {
        Self(Kind::Listener(listener))
    }
}

impl From<TcpListener> for Bind {
    fn from(listener: TcpListener) -> Self {
        Listener::from(listener).into()
    }
}

impl From<UnixListener> for Bind {
    fn from(listener: UnixListener) -> Self {
        Listener::from(listener).into()
    }
}
