//! Causes of failures of worker processes.

use std::{io, time::Duration};

use crate::{
    net::process::ExitStatus,
    proto::gate::{BadHead, Fault},
};

/// A worker process was not ready within its time to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker process was not ready within {timeout:?}: {reason}")]
pub struct NotReady {
    /// The time it had.
    pub timeout: Duration,
    /// What the last check has found.
    pub reason: String,
}

/// A worker process ended before it was ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker process ended before it was ready, with {status}: {last_line}")]
pub struct ExitedEarly {
    /// How it ended.
    pub status: ExitStatus,
    /// The last line of its output; empty if there was none.
    pub last_line: String,
}

/// A new generation of worker processes did not take over; the old one works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadFailed {
    /// A new worker ended before it was ready. The log has its output.
    #[error("a worker of the new generation ended before it was ready; the old one works on")]
    Exited,
    /// The new workers were not ready in time.
    #[error("the new generation was not ready in time; the old one works on")]
    TimedOut,
    /// Another reload is under way, or the pool is closed.
    #[error("the pool is closed, or another reload is under way")]
    Refused,
}

/// A worker process did not answer a request that it was sent in a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// It has ended.
    #[error("the worker process has ended before it answered")]
    Closed,
    /// Its socket is broken.
    #[error("the socket of the worker process is broken")]
    Io(#[from] io::Error),
    /// It has sent what is no answer. It is ended and replaced.
    #[error("the worker process has violated its protocol")]
    Fault(#[from] Fault),
}

/// A Python application did not give a valid response. Its worker goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// It has raised an exception. The log has the traceback.
    #[error("the application has raised {message}")]
    Raised {
        /// The exception in a line, for example `KeyError: 'name'`.
        message: String,
    },
    /// It has given a head that is not valid.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// Its body has another length than its `Content-Length` says.
    #[error("the application gave {actual} bytes of body and a Content-Length of {declared}")]
    Length {
        /// The value of `Content-Length`.
        declared: u64,
        /// The length of the body.
        actual: u64,
    },
    /// The body that it streams is longer than its `Content-Length` says.
    #[error("the application gave more bytes of body than its Content-Length says")]
    TooLong,
    /// The body that it streams is shorter than its `Content-Length` says.
    #[error("the application gave {missing} bytes of body less than its Content-Length says")]
    TooShort {
        /// Bytes that are missing.
        missing: u64,
    },
}
