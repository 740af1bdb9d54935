//! `Lanes`: the processes that run several requests at a time, and how many each of them runs.

use std::collections::HashMap;

use crate::policy::restart::WorkerId;

/// The number of a process in its pool.
pub(super) type ProcessId = u64;

/// Processes with several lanes, each of which is a worker of the pool, and the requests that each process runs. Workers
/// that are a process or a thread of their own are not in it.
#[derive(Default)]
pub(super) struct Lanes {
    processes: HashMap<WorkerId, ProcessId>,
    /// The processes that run requests. They are few.
    loads: Vec<(ProcessId, usize)>,
    /// Workers whose requests were abandoned, which still run in these processes.
    abandoned: Vec<(WorkerId, ProcessId)>,
}

impl Lanes {
    /// Registers a worker as a lane of `process`.
    pub(super) fn add(&mut self, worker: WorkerId, process: ProcessId) {
        self.processes.insert(worker, process);
    }

    /// Removes a worker.
    pub(super) fn remove(&mut self, worker: WorkerId) {
        self.processes.remove(&worker);
    }

    /// Returns the process of which `worker` is a lane.
    pub(super) fn process(&self, worker: WorkerId) -> Option<ProcessId> {
        if self.processes.is_empty() { None } else { self.processes.get(&worker).copied() }
    }

    /// Returns the number of requests that `process` runs; 0 for a worker that is no lane.
    pub(super) fn load(&self, process: Option<ProcessId>) -> usize {
        let of_process = |process| self.loads.iter().find(|(id, _)| *id == process);
        process.and_then(of_process).map_or(0, |(_, load)| *load)
    }

    /// Records that `process` begins a request.
    pub(super) fn begin(&mut self, process: Option<ProcessId>) {
        let Some(process) = process else { return };
        match self.loads.iter_mut().find(|(id, _)| *id == process) {
            Some((_, load)) => *load += 1,
            None => self.loads.push((process, 1)),
        }
    }

    /// Records that a request was abandoned that `worker` runs. It counts until the worker [exits](Self::exit), so that a
    /// process that is stuck does not look idle.
    pub(super) fn abandon(&mut self, worker: WorkerId, process: Option<ProcessId>) {
        self.abandoned.extend(process.map(|process| (worker, process)));
    }

    /// Records that `worker` has exited.
    pub(super) fn exit(&mut self, worker: WorkerId) {
        if let Some(at) = self.abandoned.iter().position(|(id, _)| *id == worker) {
            let (_, process) = self.abandoned.swap_remove(at);
            self.end(Some(process));
        }
    }

    /// Records that `process` has ended a request.
    pub(super) fn end(&mut self, process: Option<ProcessId>) {
        let Some(at) = self.loads.iter().position(|(id, _)| Some(*id) == process) else { return };
        self.loads[at].1 -= 1;
        if self.loads[at].1 == 0 {
            self.loads.swap_remove(at);
        }
    }
}
