//! The threads for work of the cache that may block.

use std::sync::LazyLock;

use crate::net::blocking_pool::{BlockingPool, Job};

/// Reads and writes the files of all stores, and carries out invalidations.
pub(super) static POOL: LazyLock<BlockingPool> = LazyLock::new(BlockingPool::default);

/// Runs `work` on one of the threads, unless none can be started.
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
