//! Causes of failures of worker processes.

use std::time::Duration;

use crate::net::process::ExitStatus;

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
