//! The causes of errors of a worker pool.

use std::time::Duration;

/// A pool cannot be started without workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot start a pool without workers: set at least 1")]
pub struct NoWorkers;

/// No worker was free within the queue timeout; the request was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no worker was free within the queue timeout")]
pub struct QueueTimeout;

/// The request's [`Deadline`](crate::peer::Deadline) passed before a worker was free; the request was
/// not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's deadline passed before a worker was free")]
pub struct DeadlineExceeded;

/// The pool is closed and takes no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker pool is closed")]
pub struct Closed;

/// All workers have failed too often in succession, and are started again after a pause. The request was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all workers failed too often in succession; they are started again after a pause")]
pub struct WorkersFailed;

/// The application did not finish within the request timeout or the request's deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the application did not finish within {0:?}")]
pub struct RequestTimeout(pub Duration);

/// The worker was replaced, and the application did not finish the request within the
/// [drain timeout](super::ProcessesBuilder::drain_timeout).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker was replaced, and the application did not finish within the drain timeout")]
pub struct DrainTimeout;

/// The application panicked while it ran the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the application panicked: {message}")]
pub struct WorkerPanicked {
    /// Message of the panic.
    pub message: String,
}

/// The factory panicked, so there is no application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot build the application: its factory panicked: {message}")]
pub struct FactoryPanicked {
    /// Message of the panic.
    pub message: String,
}

/// Workers were still running when a shutdown timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{workers} workers are still running")]
pub struct StillRunning {
    /// The number of these workers.
    pub workers: usize,
}

/// A reload has failed. The old workers continue to serve requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadFailed {
    /// A new worker ended before it was ready. The log has its error or its output.
    #[error(
        "a new worker ended before it was ready; the old workers continue, and the log has the reason"
    )]
    Exited,
    /// The new workers were not ready in time.
    #[error("the new workers were not ready in time; the old workers continue")]
    TimedOut,
    /// Another reload is in progress, or the pool is closed.
    #[error("the pool is closed, or another reload is in progress")]
    Refused,
}
