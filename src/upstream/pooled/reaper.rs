//! `Reaper`: the task that owns a runtime's idle connections.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::runtime::Id;

use super::{Protocol, Server};
use crate::net::clock;

/// Maximum time of a sleep, if the idle timeout exceeds the range of the clock: one day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Closes the idle connections of one runtime at their timeout, with or without traffic.
///
/// It is spawned in that runtime with the first idle connection, and ends when there is none. When the runtime ends,
/// it drops this task, which closes the remaining connections: no other runtime can use their sockets.
pub(super) struct Reaper<P: Protocol> {
    server: Weak<Server<P>>,
    runtime: Id,
    /// Whether the pool had connections of this runtime at the last check.
    is_owner: bool,
}

impl<P: Protocol> Reaper<P> {
    pub(super) fn new(server: &Arc<Server<P>>, runtime: Id) -> Self {
        Self { server: Arc::downgrade(server), runtime, is_owner: true }
    }

    pub(super) async fn run(mut self) {
        while let Some(server) = self.server.upgrade() {
            let now = clock::now();
            let timeout = server.config.idle_timeout;
            let Some(oldest) = server.pool.expire(self.runtime, now, timeout) else {
                self.is_owner = false; // the next connection spawns another reaper
                return;
            };
            drop(server);
            let due = oldest.checked_add(timeout).unwrap_or(now + DAY);
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl<P: Protocol> Drop for Reaper<P> {
    fn drop(&mut self) {
        if self.is_owner
            && let Some(server) = self.server.upgrade()
        {
            server.pool.clear(self.runtime);
        }
    }
}
