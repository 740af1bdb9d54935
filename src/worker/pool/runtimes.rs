//! `Runtimes`: the runtimes that serve connections and call a pool. Its workers are assigned to them.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::runtime::Handle;

use crate::{net::serving::is_serving, policy::restart::WorkerId};

/// Maximum number of runtimes: 256. Further ones call the pool from outside.
const MAX_RUNTIMES: usize = 256;

/// The runtimes of the callers of a pool.
#[derive(Default)]
pub(in super::super) struct Runtimes {
    list: Mutex<Vec<Handle>>,
    /// The length of `list`.
    count: AtomicUsize,
}

impl Runtimes {
    fn list(&self) -> MutexGuard<'_, Vec<Handle>> {
        // Nothing panics while the lock is held.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the current runtime, if it serves connections.
    pub(in super::super) fn add_current(&self) {
        let Ok(current) = Handle::try_current() else { return };
        let mut list = self.list();
        let is_known = list.iter().any(|runtime| runtime.id() == current.id());
        if !is_known && list.len() < MAX_RUNTIMES && is_serving(&current) {
            list.push(current);
            self.count.store(list.len(), Ordering::Relaxed);
        }
    }

    /// Removes a runtime that has ended.
    pub(in super::super) fn remove(&self, runtime: &Handle) {
        let mut list = self.list();
        list.retain(|other| other.id() != runtime.id());
        self.count.store(list.len(), Ordering::Relaxed);
    }

    /// Returns whether there are any, so that workers are assigned to them.
    pub(in super::super) fn is_used(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Returns the runtime that worker `id` is assigned to, if it is not `here`.
    pub(in super::super) fn assigned(&self, id: WorkerId, here: Option<&Handle>) -> Option<Handle> {
        if !self.is_used() {
            return None;
        }
        let list = self.list();
        let at = id.number() % u64::try_from(list.len().max(1)).ok()?;
        let runtime = list.get(usize::try_from(at).ok()?)?;
        let is_here = here.is_some_and(|here| here.id() == runtime.id());
        (!is_here).then(|| runtime.clone())
    }
}
