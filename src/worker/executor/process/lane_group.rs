//! `LaneGroup`: a worker process and its lanes.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OnceCell, watch};

use super::{HealthCheck, Shared, health::Health, link::Link, output::Output, zygote::Zygote};
use crate::{
    error::BoxError,
    net::process::{Child, ExitStatus, Spawned},
    policy::restart::WorkerId,
    worker::process::{ExitedEarly, WorkerProcess},
};

/// A process and its lanes. A lane is a worker of the pool: it runs one request at a time. Most programs have one
/// lane.
///
/// The first lane starts the process, and the last one that leaves stops it. When a lane leaves or is to be replaced, no
/// other worker joins the process, and the supervisor replaces its other lanes.
pub(super) struct LaneGroup {
    /// Its number in the pool.
    number: u64,
    pending: Mutex<Option<PendingProcess>>,
    zygote: Option<Arc<Zygote>>,
    process: OnceCell<Process>,
    lane_count: usize,
    lanes: Mutex<Lanes>,
    ended: watch::Sender<Option<ExitedEarly>>,
    is_ready: AtomicBool,
    /// Its checks, if there are any.
    pub(super) health: Option<Health>,
}

/// A process that was spawned, or that its first lane forks.
pub(super) enum PendingProcess {
    Spawned(Spawned),
    /// The zygote forks it, and it inherits this socket.
    Fork(Arc<Zygote>, OwnedFd),
}

struct Lanes {
    /// The links of lanes without a worker.
    free: Vec<Link>,
    active: usize,
    is_closed: bool,
}

/// A running process.
pub(super) struct Process {
    pub(super) child: Child,
    pub(super) facts: WorkerProcess,
    output: Mutex<Option<Output>>,
    /// Its parent process, if it was forked.
    zygote: Option<Arc<Zygote>>,
}

impl LaneGroup {
    /// Creates a process with one lane for each link.
    pub(super) fn new(
        number: u64,
        pending: PendingProcess,
        links: Vec<Link>,
        check: HealthCheck,
    ) -> Arc<Self> {
        let zygote = match &pending {
            PendingProcess::Spawned(_) => None,
            PendingProcess::Fork(zygote, _) => Some(zygote.clone()),
        };
        Arc::new(Self {
            number,
            zygote,
            pending: Mutex::new(Some(pending)),
            process: OnceCell::new(),
            lane_count: links.len(),
            lanes: Mutex::new(Lanes { free: links, active: 0, is_closed: false }),
            ended: watch::channel(None).0,
            is_ready: AtomicBool::new(false),
            health: Health::new(check),
        })
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing panics while the lock is held.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns whether the process has several lanes.
    pub(super) fn is_shared(&self) -> bool {
        self.lane_count > 1
    }

    /// Returns a lane for another worker, if one is free.
    pub(super) fn join(&self) -> Option<Link> {
        let mut lanes = self.lanes();
        if lanes.is_closed {
            return None;
        }
        let link = lanes.free.pop()?;
        lanes.active += 1;
        Some(link)
    }

    /// Returns whether no other worker can join.
    pub(super) fn is_full(&self) -> bool {
        let lanes = self.lanes();
        lanes.is_closed || lanes.free.is_empty()
    }

    /// Returns whether a lane has left, so that no other worker can join.
    pub(super) fn is_closed(&self) -> bool {
        self.lanes().is_closed
    }

    /// Removes a lane, and lets no other join. Returns whether it was the last one, whose worker must stop the
    /// process.
    pub(super) fn leave(&self) -> bool {
        let mut lanes = self.lanes();
        lanes.is_closed = true;
        lanes.free.clear();
        lanes.active -= 1;
        lanes.active == 0
    }

    /// Returns the process that forks this one, if there is one.
    pub(super) fn zygote(&self) -> Option<&Zygote> {
        self.zygote.as_deref()
    }

    /// Returns the process. The first call starts it, and calls `on_start`.
    pub(super) async fn process(
        &self,
        id: WorkerId,
        shared: &Shared,
        on_start: impl FnOnce(WorkerProcess),
    ) -> Result<&Process, BoxError> {
        let start = async {
            let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (mut spawned, zygote) = match pending {
                Some(PendingProcess::Spawned(spawned)) => (spawned, None),
                Some(PendingProcess::Fork(zygote, socket)) => {
                    let mut spawned = zygote.fork(socket).await?;
                    shared.guard(&mut spawned);
                    (spawned, Some(zygote))
                }
                None => return Err("its process could not be started".into()),
            };
            let output = spawned.output.take();
            let forked = spawned.pid().zip(zygote.as_ref());
            let child = match (spawned.observe(), forked) {
                (Err(error), Some((pid, zygote))) => {
                    zygote.reap(pid).await; // it was killed
                    return Err(error.into());
                }
                (observed, _) => observed?,
            };
            let (number, pid, generation) = (id.number(), child.pid(), id.generation());
            let facts = WorkerProcess { number, pid, generation };
            on_start(facts);
            // A line of a process with several lanes may belong to any of them.
            let pool = (!self.is_shared()).then(|| shared.pool.clone());
            let worker = Some((id, pool));
            let output = Mutex::new(output.map(|pipes| Output::start(worker.as_ref(), pid, pipes)));
            Ok::<_, BoxError>(Process { child, facts, output, zygote })
        };
        self.process.get_or_try_init(|| start).await
    }

    /// Returns the process, if it has been started.
    pub(super) fn started(&self) -> Option<&Process> {
        self.process.get()
    }

    /// Records that a lane is ready. Returns whether it is the first one.
    pub(super) fn set_ready(&self) -> bool {
        !self.is_ready.swap(true, Ordering::Relaxed)
    }

    /// Records that the process was reaped.
    pub(super) fn set_ended(&self, ended: ExitedEarly) {
        self.ended.send_replace(Some(ended));
    }

    /// Waits until the last lane has reaped the process.
    pub(super) async fn ended(&self) -> Option<ExitedEarly> {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|ended| ended.clone())
    }
}

impl Process {
    /// Waits for the end of the process and reaps it. Returns its status and the last line of its output.
    pub(super) async fn reap(&self) -> (ExitStatus, String) {
        let status = match &self.zygote {
            None => self.child.reap().await,
            Some(zygote) => {
                self.child.release().await;
                match zygote.reap(self.child.pid()).await {
                    ExitStatus::Unknown => self.child.reap_orphan(),
                    status => status,
                }
            }
        };
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        let last_line = match output {
            Some(output) => output.end().await,
            None => String::new(),
        };
        (status, last_line)
    }
}
