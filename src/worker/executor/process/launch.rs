//! `Launch`: how the processes of a pool are started and stopped, and the protocol with them.

use std::{fmt, sync::Arc, time::Duration};

use http::uri::PathAndQuery;

use super::{HealthCheck, SocketUser};
use crate::{
    net::process::Command,
    worker::process::{Hooks, START_TIMEOUT, STOP_TIMEOUT},
};

/// Settings for starting and stopping processes.
pub(crate) struct Launch {
    pub(crate) command: Command,
    pub(crate) protocol: Protocol,
    pub(crate) start_timeout: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) watches_memory: bool,
    pub(crate) health_check: HealthCheck,
    pub(crate) hooks: Hooks,
}

/// The protocol between the pool and a worker.
#[derive(Debug)]
pub enum Protocol {
    Http {
        /// Whether the command contains the path of the worker's socket. If not, the worker inherits the
        /// listening socket.
        has_path: bool,
        ready: Ready,
        /// Maximum number of concurrent requests of a process.
        lanes: usize,
    },
    /// Frames of [`crate::proto::gate`].
    Gate {
        /// The source text of the program, which the worker reads from its socket.
        program: &'static str,
        /// Whether workers are forked from a process that has loaded the application.
        is_forked: bool,
        /// Maximum number of concurrent requests of a process.
        lanes: usize,
        /// Whether a lane reads a request only after it has answered the previous one.
        is_sequential: bool,
    },
}

impl Launch {
    /// Creates settings with the default timeouts and without hooks.
    pub(crate) fn new(command: Command, protocol: Protocol) -> Self {
        Self {
            command,
            protocol,
            start_timeout: START_TIMEOUT,
            stop_timeout: STOP_TIMEOUT,
            watches_memory: false,
            health_check: HealthCheck::default(),
            hooks: Hooks::default(),
        }
    }
}

/// The condition under which a worker is ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// Its program runs. The pool sends it no requests.
    Started,
    /// It accepts connections on its socket. The pool sends it no requests; the [`SocketUser`] does.
    Listening(Arc<dyn SocketUser>),
    /// It answers `OPTIONS *` with any status.
    Answer,
    /// It answers `GET` of this path with a status of 2xx or 3xx.
    Path(PathAndQuery),
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("command", &self.command)
            .field("protocol", &self.protocol)
            .field("start_timeout", &self.start_timeout)
            .field("stop_timeout", &self.stop_timeout)
            .finish_non_exhaustive()
    }
}
