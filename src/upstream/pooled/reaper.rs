//! `Reaper`: the task that owns a runtime's idle connections.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::runtime::Id;

use super::Shared;
use crate::net::clock;

/// How long it sleeps if the idle timeout is too long to be added to a time.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Closes the idle connections of one runtime when their time is over, traffic or not.
///
/// It is spawned in that runtime with the first idle connection, and ends when there is none. When the
/// runtime ends, it drops this task, which closes all that is left: their sockets are of no use to any
/// other runtime.
pub(super) struct Reaper {
    shared: Weak<Shared>,
    runtime: Id,
    /// The pool has connections of this runtime, or had them when it was looked at.
    is_owner: bool,
}

impl Reaper {
    pub(super) fn new(shared: &Arc<Shared>, runtime: Id) -> Self {
        Self { shared: Arc::downgrade(shared), runtime, is_owner: true }
    }

    pub(super) async fn run(mut self) {
        while let Some(shared) = self.shared.upgrade() {
            let now = clock::now();
            let timeout = shared.options.idle_timeout;
            let Some(oldest) = shared.pool.expire(self.runtime, now, timeout) else {
                self.is_owner = false; // the next connection has a reaper of its own
                return;
            };
            drop(shared);
            let due = oldest.checked_add(timeout).unwrap_or(now + DAY);
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if self.is_owner
            && let Some(shared) = self.shared.upgrade()
        {
            shared.pool.clear(self.runtime);
        }
    }
}
