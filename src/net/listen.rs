//! Addresses, and sockets that listen on them.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

/// Connections that the kernel holds until they are accepted. The kernel caps it at
/// `net.core.somaxconn`, 4,096 by default.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel takes for a client beyond those that are on their way to it: 128 KiB. The
/// kernel's own bound, some megabytes, is a slow reader's to fill, and with ten thousand of them it is
/// gigabytes. Who turns out to read fast is [given more](super::Io::open_up): fewer wake-ups.
const UNSENT: u32 = 128 << 10;

/// Where to listen or to connect: `host:port`, `http://host:port` or `unix:/path`.
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

/// A socket that listens, not yet tied to a runtime, so that each thread can have its own.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(Socket),
    /// A Unix socket.
    Unix(Socket),
}

impl Listener {
    /// Binds and listens. With `share`, several sockets may listen on one TCP port, and the kernel
    /// spreads the connections over them (`SO_REUSEPORT`).
    ///
    /// A Unix socket's path is freed first if nobody listens there any more.
    ///
    /// # Errors
    /// Those of look-up, `bind` and `listen`.
    pub fn bind(address: &Address, share: bool) -> io::Result<Self> {
        match address {
            Address::Tcp(host) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for addr in host.to_socket_addrs()? {
                    match bind_tcp(addr, share) {
                        Ok(socket) => return Ok(Self::Tcp(socket)),
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => bind_unix(path).map(Self::Unix),
        }
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(s) => Self::Tcp(s.try_clone()?),
            Self::Unix(s) => Self::Unix(s.try_clone()?),
        })
    }

    /// The address that it listens on, with the port that the kernel chose.
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

fn bind_tcp(addr: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit these: no system call for each connection.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let addr = SockAddr::unix(path)?;
    let new = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = new()?;
    if let Err(e) = socket.bind(&addr) {
        // Another kind of file would refuse connections just as well, and is not ours to remove.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
        let stale = e.kind() == io::ErrorKind::AddrInUse
            && is_socket
            && new()?.connect(&addr).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if !stale {
            return Err(e);
        }
        std::fs::remove_file(path)?;
        socket.bind(&addr)?;
    }
    socket.listen(BACKLOG)?;
    Ok(socket)
}
