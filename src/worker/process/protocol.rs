//! How requests are sent to worker processes.

use std::fmt;

use http::uri::PathAndQuery;

use super::ProcessesBuilder;
use crate::{
    error::BoxError,
    net::process::Command,
    worker::executor::process::{self, Ready},
};

/// Name in arguments that stands for the path of the worker's socket.
pub(in super::super) const SOCKET: &str = "{socket}";

/// How requests are sent to worker processes: a parameter of [`ProcessesBuilder`]. It is sealed.
pub trait Protocol: sealed::Sealed + fmt::Debug {}

pub(super) mod sealed {
    use super::{BoxError, Command, process};

    pub trait Sealed {
        /// Returns the command of the workers, and how an executor speaks to them.
        fn into_parts(self) -> Result<(Command, process::Protocol), BoxError>;

        /// Returns how many requests a process answers at a time.
        fn lanes(&self) -> usize {
            1
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
                "no argument of the command has {socket} in it: where would it listen?".into()
            );
        }
        Ok((command, process::Protocol::Http { has_path, ready, lanes }))
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

impl ProcessesBuilder<Http> {
    /// Makes a worker ready when it answers `GET` of this path with a status of 2xx or 3xx. By default
    /// it is ready when it answers `OPTIONS *` with any status: a server does that by itself (RFC 9110
    /// section 9.3.7), once it has loaded its application.
    ///
    /// # Panics
    /// If it is not a path.
    pub fn ready_path(mut self, path: &str) -> Self {
        let is_path = path.starts_with('/');
        let path = path.parse::<PathAndQuery>().ok().filter(|_| is_path);
        self.protocol.ready = Ready::Path(path.expect("a path begins with a slash"));
        self
    }

    /// Sets how many requests a process is sent at a time, for programs that take several, such as uvicorn or
    /// node. The default is 1.
    ///
    /// Each is a worker of the pool: [`Stats::workers`](crate::worker::Stats::workers), limits and bounds count
    /// them. A process in which a request takes longer than the request timeout is given no other, and ends when
    /// its other requests have ended.
    ///
    /// ```no_run
    /// use vestibule::worker::{self, Command};
    ///
    /// let uvicorn = Command::new("uvicorn").args(["--fd", "3", "mysite.asgi:application"]);
    /// let site = worker::process(uvicorn).workers(2).concurrency(100).start()?;
    /// # Ok::<_, vestibule::Error>(())
    /// ```
    pub fn concurrency(mut self, n: usize) -> Self {
        self.protocol.lanes = n.max(1);
        self
    }

    /// Has the program listen by itself, at a path that stands for `{socket}` in its arguments. The path
    /// is in a directory that only the user of the worker may enter.
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
