//! Causes of failures of a worker pool, one small type each.

use std::time::Duration;

/// The pool was to be started without workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pool without workers never answers: start it with at least 1")]
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

/// Every worker has failed so often in a row that it is given up for a while; the request was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all workers failed again and again; they are started again after a pause")]
pub struct WorkersFailed;

/// The application did not finish within the request timeout or the request's deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the application did not finish within {0:?}")]
pub struct RequestTimeout(pub Duration);

/// The application panicked while it ran the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the application panicked: {message}")]
pub struct WorkerPanicked {
    /// Message of the panic.
    pub message: String,
}

/// The factory panicked, so there is no application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the application could not be built, its factory panicked: {message}")]
pub struct FactoryPanicked {
    /// Message of the panic.
    pub message: String,
}

/// Workers were still running when the time of a shutdown was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{workers} workers are still running")]
pub struct StillRunning {
    /// How many.
    pub workers: usize,
}
