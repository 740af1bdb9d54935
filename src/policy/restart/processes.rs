//! `Processes`: processes that several workers share, whose workers are replaced together.

use std::collections::{HashMap, HashSet};

use super::{Supervisor, WorkerId};

/// The processes that several workers share.
#[derive(Debug, Default)]
pub(super) struct Processes {
    /// The process of each worker that shares one, until it exits.
    by_worker: HashMap<WorkerId, u64>,
    /// Processes that no further worker joins.
    closing: HashSet<u64>,
}

impl Processes {
    /// Returns the process of a worker, if it shares one.
    pub(super) fn of(&self, id: WorkerId) -> Option<u64> {
        self.by_worker.get(&id).copied()
    }
}

impl Supervisor {
    /// Records that worker `id`, which starts, shares this process with other workers. Numbers of processes are not
    /// reused.
    pub(crate) fn on_joined(&mut self, id: WorkerId, process: u64) {
        self.processes.by_worker.insert(id, process);
    }

    /// Returns whether no further worker may join this process.
    pub(crate) fn is_closing(&self, process: u64) -> bool {
        self.processes.closing.contains(&process)
    }

    /// Closes the process of worker `id`, which leaves it: no other worker joins it, and its other workers are
    /// nominated, so that it can be stopped when their requests have ended.
    pub(crate) fn close_process(&mut self, id: WorkerId) {
        let Some(process) = self.processes.of(id) else { return };
        if !self.processes.closing.insert(process) {
            return;
        }
        for slot in &mut self.slots {
            let other = slot.state.id().filter(|other| *other != id);
            if other.and_then(|other| self.processes.of(other)) == Some(process) {
                self.has_nominated |= slot.nominate();
            }
        }
    }

    /// Nominates worker `id`, which has become ready, if its process was closed meanwhile.
    pub(super) fn check_closing(&mut self, id: WorkerId) {
        let is_closing = self.processes.of(id).is_some_and(|process| self.is_closing(process));
        if is_closing {
            let is_new = self.slot(id).is_some_and(|slot| slot.nominate());
            self.has_nominated |= is_new;
        }
    }

    /// Records that worker `id` has exited. Its process is closed for others.
    pub(super) fn leave_process(&mut self, id: WorkerId) {
        self.close_process(id);
        let Some(process) = self.processes.by_worker.remove(&id) else { return };
        if self.processes.by_worker.values().all(|other| *other != process) {
            self.processes.closing.remove(&process);
        }
    }
}
