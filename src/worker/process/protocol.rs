//! `Protocol` and `Http`: the protocols between a pool and its worker processes.

use std::{fmt, time::Duration};

use http::uri::PathAndQuery;

use super::ProcessesBuilder;
use crate::{
    conn::tunnels::TunnelOptions,
    error::BoxError,
    net::process::Command,
    worker::executor::process::{self, Ready},
};

/// Placeholder in arguments for the path of the worker's socket.
pub(in super::super) const SOCKET: &str = "{socket}";

/// Upper bound of the number of concurrent requests of a process, each of which counts as a worker: 1,000.
pub(super) const MAX_LANES: usize = 1000;

/// The protocol between a pool and its worker processes, a type parameter of [`ProcessesBuilder`]. This trait is
/// sealed.
pub trait Protocol: sealed::Sealed + fmt::Debug {}

pub(super) mod sealed {
    use super::{BoxError, Command, Duration, process};

    pub trait Sealed {
        /// Returns the command of the workers, and the protocol of the executor.
        fn into_parts(self) -> Result<(Command, process::Protocol), BoxError>;

        /// Returns the number of requests after which a worker becomes the mould.
        fn refork_after(&self) -> Option<u64> {
            None
        }

        /// Returns the maximum number of concurrent requests of a process.
        fn lanes(&self) -> usize {
            1
        }

        /// Returns how long after its request timeout a request may take to end, before its process is replaced.
        fn grace(&self) -> Duration {
            Duration::ZERO
        }
    }
}

/// HTTP/1.1 on a Unix socket: the workers of [`process`](super::process()).
#[derive(Debug)]
pub struct Http {
    command: Command,
    has_path: bool,
    ready: Ready,
    lanes: usize,
}

impl Http {
    pub(super) fn new(command: Command) -> Self {
        Self { command, has_path: false, ready: Ready::Answer, lanes: 1 }
    }
}

impl Protocol for Http {}

impl sealed::Sealed for Http {
    fn into_parts(self) -> Result<(Command, process::Protocol), BoxError> {
        let Self { command, has_path, ready, lanes } = self;
        if has_path && !command.mentions(SOCKET) {
            return Err(
                "socket_path() needs {socket} in an argument of the command, for the path of the socket".into()
            );
        }
        Ok((command, process::Protocol::Http { has_path, ready, lanes }))
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

impl ProcessesBuilder<Http> {
    /// Sets the path of the readiness check: a worker is ready when it answers `GET` of this path with a status of 2xx
    /// or 3xx. By default it is ready when it answers `OPTIONS *` with any status (RFC 9110 section 9.3.7), which most
    /// servers answer themselves once they have loaded the application.
    ///
    /// # Panics
    /// If `path` does not begin with a slash or is not a valid path.
    pub fn ready_path(mut self, path: &str) -> Self {
        let is_path = path.starts_with('/');
        let path = path.parse::<PathAndQuery>().ok().filter(|_| is_path);
        self.protocol.ready = Ready::Path(path.expect("a path begins with a slash"));
        self
    }

    /// Sets the maximum number of concurrent requests of a process, for programs like uvicorn or node. The default and the
    /// minimum are 1, and the maximum is 1,000.
    ///
    /// Each of them counts as a worker of the pool, in [`Stats::workers`](crate::worker::Stats::workers) and in all
    /// limits of the number of workers. A process is replaced as a whole: when a request exceeds the request timeout, or
    /// one of the workers is recycled, the process gets no further requests as soon as its replacement is ready, and is
    /// stopped when its other requests have ended. With [`max_workers`](Self::max_workers), a process is stopped when all of its
    /// workers are idle.
    ///
    /// ```no_run
    /// use vestibule::worker::{self, Command};
    ///
    /// let uvicorn = Command::new("uvicorn").args(["--fd", "3", "mysite.asgi:application"]);
    /// let site = worker::process(uvicorn).workers(2).concurrency(100).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn concurrency(mut self, n: usize) -> Self {
        self.protocol.lanes = n.clamp(1, MAX_LANES);
        self
    }

    /// Allows WebSockets or other protocols, within bounds. By default none is allowed: a program that runs one request
    /// at a time could not answer another one while a tunnel is open.
    ///
    /// A worker counts as idle once it has accepted a tunnel: the request timeout applies to the response only, and the
    /// tunnel does not count in the limits of requests. A worker that is stopped must close its tunnels itself, within
    /// the [stop timeout](Self::stop_timeout).
    ///
    /// ```no_run
    /// use vestibule::{upstream::TunnelOptions, worker::{self, Command}};
    ///
    /// let uvicorn = Command::new("uvicorn").args(["--fd", "3", "mysite.asgi:application"]);
    /// let pool = worker::process(uvicorn).workers(2).concurrency(100);
    /// let site = pool.tunnels(TunnelOptions::new()).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn tunnels(self, options: TunnelOptions) -> Self {
        self.allow_tunnels(options)
    }

    /// Makes the program bind its socket itself: `{socket}` in its arguments is replaced by the path, which is in a
    /// directory that only the worker's user can access.
    ///
    /// ```no_run
    /// use vestibule::worker::{self, Command};
    ///
    /// let app = Command::new("gunicorn").args(["--bind", "unix:{socket}", "mysite.wsgi"]);
    /// let django = worker::process(app).socket_path().start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn socket_path(mut self) -> Self {
        self.protocol.has_path = true;
        self
    }
}
