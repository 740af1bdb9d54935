//! `Address`, `Listener`: addresses and the sockets that listen on them.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// The length of the kernel's accept queue. The kernel caps it at `net.core.somaxconn`, 4,096 by default.
pub(crate) const BACKLOG: u16 = 4096;

/// The maximum of unsent bytes in a send queue (`TCP_NOTSENT_LOWAT`), 128 KiB. With the kernel's own limit, some
/// megabytes for each connection, ten thousand slow readers would hold gigabytes. The limit is
/// [raised](super::Io::raise_send_limit) for a client that reads fast, which saves wake-ups.
const MAX_UNSENT: u32 = 128 << 10;

/// An address to listen on or to connect to: `host:port`, `http://host:port` or `unix:/path`.
///
/// ```
/// use vestibule::net::Address;
///
/// let a: Address = "unix:/run/app.sock".parse()?;
/// assert_eq!(a.to_string(), "unix:/run/app.sock");
/// assert!("localhost".parse::<Address>().is_err(), "the port is missing");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`; the host may be a name.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let host = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = host.rsplit_once(':').and_then(|(_, p)| p.parse::<u16>().ok());
        if port.is_none() || host.contains('/') {
            let why = format!("'{text}' is neither host:port, http://host:port nor unix:/path");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self::Tcp(host.to_owned()))
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listening socket that is not yet registered with a runtime, so that each thread can have its own.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(Socket),
    /// A Unix socket.
    Unix(Socket),
}

impl Listener {
    /// Binds and listens. With `reuse_port`, several sockets may listen on one TCP port, and the kernel
    /// spreads the connections over them (`SO_REUSEPORT`).
    ///
    /// A Unix socket at the path is removed first if no process listens on it.
    ///
    /// # Errors
    /// Those of name resolution, `bind` and `listen`. They name the address and, if known, the remedy:
    /// `cannot listen on 127.0.0.1:80: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)`.
    pub fn bind(address: &Address, reuse_port: bool) -> io::Result<Self> {
        Self::try_bind(address, reuse_port).map_err(|error| cannot_listen(address, error))
    }

    fn try_bind(address: &Address, reuse_port: bool) -> io::Result<Self> {
        match address {
            Address::Tcp(host) => {
                let mut last =
                    io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
                for addr in host.to_socket_addrs()? {
                    match bind_tcp(addr, reuse_port) {
                        Ok(socket) => return Ok(Self::Tcp(socket)),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => bind_unix(path).map(Self::Unix),
        }
    }

    /// Creates another handle of the same socket.
    ///
    /// # Errors
    /// Those of dup(2): no descriptors are left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
            Self::Unix(s) => Self::Unix(s.try_clone()?),
        })
    }

    /// Returns the address that it listens on, with the port chosen by the kernel.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_addr(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(s) => {
                let addr = s.local_addr()?.as_socket();
                Ok(addr.expect("a TCP socket has an IP address").into())
            }
            Self::Unix(s) => {
                let addr = s.local_addr()?;
                Ok(Address::Unix(addr.as_pathname().map(Path::to_owned).unwrap_or_default()))
            }
        }
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        let std = listener.into_std().expect("taking a listener out of its runtime cannot fail");
        Self::Tcp(std.into())
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        let std = listener.into_std().expect("taking a listener out of its runtime cannot fail");
        Self::Unix(std.into())
    }
}

/// A socket that cannot listen, and why.
#[derive(thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
struct CannotListen {
    address: Address,
    reason: String,
    source: io::Error,
}

/// The same text as `Display`, since an error returned by `main` is printed with `Debug`.
impl fmt::Debug for CannotListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Adds the address and a remedy to an error, and keeps its kind.
fn cannot_listen(address: &Address, source: io::Error) -> io::Error {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, NotFound, PermissionDenied};
    let kind = source.kind();
    let advice = match address {
        Address::Tcp(host) => match kind {
            PermissionDenied if is_privileged(host) => {
                Some("ports below 1024 need CAP_NET_BIND_SERVICE")
            }
            AddrInUse => Some("another program listens there"),
            AddrNotAvailable => Some("no interface of this machine has it"),
            _ => None,
        },
        Address::Unix(path) => match kind {
            PermissionDenied => Some("its folder must be writable"),
            AddrInUse if is_socket(path) => Some("another program listens there"),
            AddrInUse => Some("a file that is not a socket has this path"),
            NotFound => Some("its folder does not exist"),
            InvalidInput => Some("a socket's path has at most 107 bytes"),
            _ => None,
        },
    };
    let reason = match advice {
        Some(advice) => format!("{kind} ({advice})"),
        None => source.to_string(),
    };
    io::Error::new(kind, CannotListen { address: address.clone(), reason, source })
}

fn is_privileged(host: &str) -> bool {
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.is_some_and(|port| (1..1024_u16).contains(&port))
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
}

fn bind_tcp(addr: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit these, which saves system calls for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let addr = SockAddr::unix(path)?;
    let new_socket = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = new_socket()?;
    if let Err(e) = socket.bind(&addr) {
        // connect(2) fails with the same error on files that are not sockets, which must not be removed.
        let is_stale = e.kind() == io::ErrorKind::AddrInUse
            && is_socket(path)
            && new_socket()?
                .connect(&addr)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !is_stale {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        socket.bind(&addr)?;
    }
    socket.listen(BACKLOG.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text of the error of binding `address`, and asserts that its kind is that of the cause.
    fn bind_error(address: &Address) -> String {
        let error = Listener::bind(address, false).unwrap_err();
        let inner = error.get_ref().and_then(|inner| inner.source()).unwrap();
        assert_eq!(inner.downcast_ref::<io::Error>().unwrap().kind(), error.kind());
        let text = error.to_string();
        assert!(format!("{error:?}").contains(&text), "as main prints it: {error:?}");
        text
    }

    #[test]
    fn bind_error_names_the_cause_and_the_remedy() {
        let taken = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
        let taken = taken.local_addr().unwrap();
        let why = "address in use (another program listens there)";
        assert_eq!(bind_error(&taken), format!("cannot listen on {taken}: {why}"));
        // An address for documentation (RFC 5737), which no interface has.
        let foreign = Address::Tcp("192.0.2.1:80".into());
        let why = "address not available (no interface of this machine has it)";
        assert_eq!(bind_error(&foreign), format!("cannot listen on {foreign}: {why}"));
        let unknown = Address::Tcp("no-such-host.invalid:80".into());
        assert!(bind_error(&unknown).starts_with("cannot listen on no-such-host.invalid:80: "));

        let folder = tempfile::tempdir().unwrap();
        let unix = |name: &str| Address::Unix(folder.path().join(name));
        let _bound = Listener::bind(&unix("live"), false).unwrap();
        std::fs::write(folder.path().join("file"), "not ours").unwrap();
        for (name, why) in [
            ("live", "address in use (another program listens there)"),
            ("file", "address in use (a file that is not a socket has this path)"),
            ("no/folder", "entity not found (its folder does not exist)"),
            (&"x".repeat(200), "invalid input parameter (a socket's path has at most 107 bytes)"),
        ] {
            let address = unix(name);
            assert_eq!(bind_error(&address), format!("cannot listen on {address}: {why}"));
        }
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"not ours");
    }

    #[test]
    fn permission_error_names_the_capability_for_low_ports_only() {
        let denied = |address: &str| {
            let address = address.parse().unwrap();
            cannot_listen(&address, io::ErrorKind::PermissionDenied.into()).to_string()
        };
        assert_eq!(
            denied("127.0.0.1:80"),
            "cannot listen on 127.0.0.1:80: permission denied \
             (ports below 1024 need CAP_NET_BIND_SERVICE)"
        );
        assert_eq!(denied("[::1]:8080"), "cannot listen on [::1]:8080: permission denied");
        let unix = denied("unix:/run/app.sock");
        assert!(unix.ends_with("permission denied (its folder must be writable)"), "{unix}");
    }
}
