//! `Runtimes`: the runtimes that serve connections and call a pool. Its workers are assigned to them.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::{
    net::serving::{ends, is_serving},
    policy::restart::WorkerId,
};

/// Maximum number of runtimes: 256. Further ones call the pool from outside.
const MAX_RUNTIMES: usize = 256;

/// The runtimes of the callers of a pool.
#[derive(Default)]
pub(in super::super) struct Runtimes {
    list: Mutex<List>,
    /// The length of the list.
    count: AtomicUsize,
}

#[derive(Default)]
struct List {
    runtimes: Vec<Handle>,
    /// The value of [`ends`] when the runtimes were checked.
    ends: u64,
}

/// The workers that are assigned to one of the runtimes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Assigned {
    index: usize,
    runtimes: usize,
}

impl Assigned {
    pub(in super::super) fn contains(self, id: WorkerId) -> bool {
        index(id, self.runtimes) == self.index
    }
}

/// Returns the index of the runtime that worker `id` is assigned to.
fn index(id: WorkerId, runtimes: usize) -> usize {
    let count = runtimes.max(1) as u64;
    (id.number() % count) as usize
}

impl Runtimes {
    /// Returns the list, without the runtimes that have stopped serving connections.
    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing panics while the lock is held.
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = ends();
        if list.ends != ends {
            list.ends = ends;
            list.runtimes.retain(is_serving);
            self.count.store(list.runtimes.len(), Ordering::Relaxed);
        }
        list
    }

    /// Adds the current runtime, if it serves connections. Returns the workers that are assigned to it, if it has one
    /// thread: in others a worker may be late although its caller is not.
    pub(in super::super) fn add_current(&self) -> Option<Assigned> {
        let current = Handle::try_current().ok()?;
        let has_one_thread = current.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let mut list = self.list();
        let List { runtimes, .. } = &mut *list;
        let known = runtimes.iter().position(|runtime| runtime.id() == current.id());
        if known.is_none() && runtimes.len() < MAX_RUNTIMES && is_serving(&current) {
            runtimes.push(current);
            self.count.store(runtimes.len(), Ordering::Relaxed);
        }
        Some(Assigned { index: known.filter(|_| has_one_thread)?, runtimes: runtimes.len() })
    }

    /// Removes a runtime that has ended.
    pub(in super::super) fn remove(&self, runtime: &Handle) {
        let mut list = self.list();
        list.runtimes.retain(|other| other.id() != runtime.id());
        self.count.store(list.runtimes.len(), Ordering::Relaxed);
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
        let runtime = list.runtimes.get(index(id, list.runtimes.len()))?;
        let is_here = here.is_some_and(|here| here.id() == runtime.id());
        (!is_here).then(|| runtime.clone())
    }
}
