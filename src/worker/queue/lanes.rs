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
    /// The processes that have lanes or run requests. They are few.
    loads: Vec<Load>,
    /// Workers whose requests were abandoned, which still run in these processes.
    abandoned: Vec<(WorkerId, ProcessId)>,
}

struct Load {
    process: ProcessId,
    /// The number of its workers.
    lanes: usize,
    /// The number of requests that it runs.
    requests: usize,
}

impl Lanes {
    /// Registers a worker as a lane of `process`.
    pub(super) fn add(&mut self, worker: WorkerId, process: ProcessId) {
        self.processes.insert(worker, process);
        self.load_mut(process).lanes += 1;
    }

    /// Removes a worker.
    pub(super) fn remove(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.remove(&worker) else { return };
        self.load_mut(process).lanes -= 1;
        self.forget_if_unused(process);
    }

    fn load_mut(&mut self, process: ProcessId) -> &mut Load {
        let at = self.loads.iter().position(|load| load.process == process).unwrap_or_else(|| {
            self.loads.push(Load { process, lanes: 0, requests: 0 });
            self.loads.len() - 1
        });
        &mut self.loads[at]
    }

    fn forget_if_unused(&mut self, process: ProcessId) {
        self.loads.retain(|l| l.process != process || l.lanes > 0 || l.requests > 0);
    }

    /// Returns the process of which `worker` is a lane.
    pub(super) fn process(&self, worker: WorkerId) -> Option<ProcessId> {
        if self.processes.is_empty() { None } else { self.processes.get(&worker).copied() }
    }

    /// Returns the number of requests that `process` runs; 0 for a worker that is no lane.
    pub(super) fn load(&self, process: Option<ProcessId>) -> usize {
        let of_process = |process| self.loads.iter().find(|load| load.process == process);
        process.and_then(of_process).map_or(0, |load| load.requests)
    }

    /// Returns the least number of requests that a process with lanes runs; 0 if there is none.
    pub(super) fn least_load(&self) -> usize {
        let loads = self.loads.iter().filter(|load| load.lanes > 0);
        loads.map(|load| load.requests).min().unwrap_or(0)
    }

    /// Records that `process` begins a request.
    pub(super) fn begin(&mut self, process: Option<ProcessId>) {
        if let Some(process) = process {
            self.load_mut(process).requests += 1;
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
        if let Some(process) = process {
            self.load_mut(process).requests -= 1;
            self.forget_if_unused(process);
        }
    }
}
