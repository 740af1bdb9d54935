//! Causes of failures of worker processes.

use std::{io, time::Duration};

use crate::{
    net::process::ExitStatus,
    proto::gate::{BadHead, Fault},
};

/// A worker process was not ready within the start timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker process was not ready within {timeout:?}: {reason}")]
pub struct NotReady {
    /// The start timeout.
    pub timeout: Duration,
    /// The result of the last readiness check.
    pub reason: String,
}

/// A worker process ended before it was ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker process ended before it was ready, with {status}: {last_line}")]
pub struct ExitedEarly {
    /// Its exit status.
    pub status: ExitStatus,
    /// The last line of its output; empty if there was none.
    pub last_line: String,
}

/// A worker process did not answer a request that was sent in a frame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// It has ended.
    #[error("the worker process ended before it answered")]
    Closed,
    /// Its socket is broken.
    #[error("cannot use the socket of the worker process")]
    Io(#[from] io::Error),
    /// It has sent an invalid frame. It is stopped and replaced.
    #[error("the worker process has violated its protocol")]
    Fault(#[from] Fault),
}

/// A Python application did not return a valid response. Its worker continues.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// It has raised an exception. The log has the traceback.
    #[error("the application raised {message}")]
    Raised {
        /// The exception in one line, for example `KeyError: 'name'`.
        message: String,
    },
    /// The head of its response is not valid.
    #[error(transparent)]
    Head(#[from] BadHead),
    /// The length of the body differs from `Content-Length`.
    #[error(
        "the application returned a body of {actual} bytes with a Content-Length of {declared}"
    )]
    Length {
        /// The value of `Content-Length`.
        declared: u64,
        /// The length of the body.
        actual: u64,
    },
    /// The streamed body is longer than `Content-Length`.
    #[error("the application sent a body that is longer than its Content-Length")]
    TooLong,
    /// The streamed body is shorter than `Content-Length`.
    #[error("the application sent a body that is {missing} bytes shorter than its Content-Length")]
    TooShort {
        /// The number of missing bytes.
        missing: u64,
    },
}
