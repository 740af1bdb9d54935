//! What can go wrong with workers, one small type for each cause.

use std::time::Duration;

/// No worker began the request in time; it was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no worker was free in time")]
pub struct QueueTimeout;

/// The pool takes no more work: it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the workers are shut down")]
pub struct Closed;

/// The application did not finish in the time it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the application did not finish within {0:?}")]
pub struct RequestTimeout(pub Duration);

/// The application panicked over this request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the application panicked: {message}")]
pub struct WorkerPanicked {
    /// What the panic said.
    pub message: String,
}

/// The factory panicked, so there is no application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the application could not be built: {message}")]
pub struct FactoryPanicked {
    /// What the panic said.
    pub message: String,
}

/// Some threads did not end in the time they were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{threads} threads are still running")]
pub struct StillRunning {
    /// How many.
    pub threads: usize,
}
