//! `PoolSettings`: the settings that pools of threads and of processes share, and their defaults.

use std::{sync::Arc, time::Duration};

use super::{error::NoWorkers, pool::Pool};
use crate::{
    error::{Error, Kind},
    policy::{
        backoff::Backoff,
        restart::{Config, Recycle, Scale},
    },
};

/// Default length of the queue per worker: 64 requests. At 10 ms for each, the last one waits 0.6 s. In a longer
/// queue, clients give up before their request is run.
pub const QUEUE_PER_WORKER: usize = 64;

/// Default of [`ThreadsBuilder::queue_timeout`](super::ThreadsBuilder::queue_timeout): 10 s, about the time after
/// which a user reloads the page.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Default of `idle_timeout` of pools whose size follows the demand: 1 min, so that the workers of one burst of
/// requests are still there for the next.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`ThreadsBuilder::request_timeout`](super::ThreadsBuilder::request_timeout): 30 s, as Gunicorn's.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Pauses between failed restarts: from 100 ms, which does not load a database that restarts, to 10 s, which is
/// soon enough to notice its recovery.
pub(super) const RESTART_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// The settings that pools of threads and of processes share.
#[derive(Debug)]
pub(super) struct PoolSettings {
    pub(super) workers: usize,
    pub(super) scale: Scale,
    /// `None`: [`QUEUE_PER_WORKER`] for each worker.
    pub(super) queue: Option<usize>,
    pub(super) queue_timeout: Duration,
    pub(super) request_timeout: Duration,
    /// `None`: the maximum number of workers.
    pub(super) max_abandoned: Option<usize>,
}

impl PoolSettings {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            scale: Scale { idle_timeout: IDLE_TIMEOUT, ..Scale::FIXED },
            queue: None,
            queue_timeout: QUEUE_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            max_abandoned: None,
        }
    }

    /// Counts each lane of a worker as a worker.
    #[cfg(feature = "process")]
    pub(super) fn with_lanes(mut self, lanes: usize) -> Self {
        for n in [&mut self.workers, &mut self.scale.max, &mut self.scale.spare] {
            *n = n.saturating_mul(lanes);
        }
        self
    }

    /// Returns the maximum number of workers.
    pub(super) fn max_workers(&self) -> usize {
        self.workers.max(self.scale.max)
    }

    /// Creates the pool. `configure` changes the configuration of its supervisor, which restarts workers with
    /// [`RESTART_BACKOFF`] and has no grace period, recycling or start timeout.
    ///
    /// # Errors
    /// [`NoWorkers`] if the number of workers is 0.
    pub(super) fn build(
        self,
        configure: impl FnOnce(Config) -> Config,
    ) -> Result<Arc<Pool>, Error> {
        let max_workers = self.max_workers();
        let Self { workers, scale, .. } = self;
        if workers == 0 {
            return Err(Error::new(Kind::Internal, NoWorkers));
        }
        let config = configure(Config {
            workers,
            scale,
            max_abandoned: self.max_abandoned.unwrap_or(max_workers),
            request_timeout: self.request_timeout,
            drain_timeout: None,
            grace: Duration::ZERO,
            backoff: RESTART_BACKOFF,
            start_timeout: None,
            give_up: None,
            stable_after: None,
            recycle: Recycle::NEVER,
            refork_after: None,
        });
        let queue = self.queue.unwrap_or_else(|| max_workers.saturating_mul(QUEUE_PER_WORKER));
        Ok(Pool::new(config, queue, self.queue_timeout))
    }
}
