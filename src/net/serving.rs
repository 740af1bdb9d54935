//! The runtimes that serve connections.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::runtime::{Handle, Id};

/// The ids of the runtimes that serve connections, once for each accept loop.
static RUNTIMES: Mutex<Vec<Id>> = Mutex::new(Vec::new());

/// Declares that the current runtime serves connections, until this value is dropped. Such a runtime is long-lived, has
/// timers, and its threads are not blocked.
#[derive(Debug)]
pub(crate) struct Serving(Id);

impl Serving {
    pub(crate) fn new() -> Self {
        let id = Handle::current().id();
        runtimes().push(id);
        Self(id)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut runtimes = runtimes();
        if let Some(at) = runtimes.iter().position(|id| *id == self.0) {
            runtimes.swap_remove(at);
        }
    }
}

/// Returns whether a runtime serves connections.
#[cfg(feature = "process")]
pub(crate) fn is_serving(runtime: &Handle) -> bool {
    runtimes().contains(&runtime.id())
}

fn runtimes() -> MutexGuard<'static, Vec<Id>> {
    // Nothing panics while the lock is held.
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}
