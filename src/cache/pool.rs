//! The blocking threads of the cache.

use std::sync::LazyLock;

use crate::net::blocking_pool::{BlockingPool, Job};

/// The threads that read and write files and run sweeps, for all caches of the process.
pub(super) static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);

/// Runs `work` on one of the threads. Drops it if no thread can be started.
pub(super) fn run(work: impl FnOnce() + Send + 'static) {
    POOL.run(Box::new(Work(work)));
}

struct Work<F>(F);

impl<F: FnOnce() + Send> Job for Work<F> {
    fn is_wanted(&mut self) -> bool {
        true
    }

    fn run(self: Box<Self>) {
        (self.0)();
    }
}
