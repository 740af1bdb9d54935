//! `Pool`: the state that the handles, the workers and the supervisor of a pool share.

#[cfg(feature = "process")]
mod ahead;
mod lifecycle;
#[cfg(feature = "process")]
mod runtimes;
mod workers;

#[cfg(feature = "process")]
pub(super) use self::ahead::After;

use std::{
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, oneshot};

use super::{
    queue::{
        Queue, closed, failed,
        job::{Cancelled, Job},
    },
    stats::Stats,
};
use crate::{
    Request,
    error::{BoxError, Error},
    policy::restart::{Allowance, Claim, Config, Reloaded, Supervisor, WorkerId},
};

/// The queue and the supervisor's state, behind one lock, since a worker that begins or ends a request changes both.
///
/// Locks are taken in the order pool, then job; wakers are woken with neither held.
pub(super) struct Pool {
    /// One permit for each queued or running request.
    pub(super) permits: Arc<Semaphore>,
    /// The number of permits.
    pub(super) admitted: usize,
    pub(super) queue_timeout: Duration,
    state: Mutex<State>,
    /// Wakes the supervisor's thread, when `wake_at` has become earlier or a worker's state has changed.
    alarm: Condvar,
    /// Wakes the thread that starts the pool.
    started: Condvar,
    /// Notified when the pool is closed.
    closed: Notify,
    /// Notified when all threads have ended.
    ended: Notify,
    refused: AtomicU64,
    /// The runtimes in which requests may be exchanged with worker processes.
    #[cfg(feature = "process")]
    pub(super) runtimes: runtimes::Runtimes,
}

pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) supervisor: Supervisor,
    /// The time at which the supervisor's thread wakes up; `None` if it sleeps until it is notified.
    wake_at: Option<Instant>,
    /// The error of the first worker that failed to start.
    startup_error: Option<BoxError>,
    /// Workers that are ready and wait until their whole generation is.
    standby: Vec<(WorkerId, Waker)>,
    /// Receives the result of the reload in progress.
    reload: Option<oneshot::Sender<Reloaded>>,
    /// Whether a reload has ended that the executor has not been told of.
    has_reloaded: bool,
    has_ended: bool,
    panics: u64,
}

impl State {
    /// Notifies the supervisor when the closed pool has no request left. Returns the idle workers, which are not
    /// needed any more.
    pub(super) fn check_drained(&mut self) -> Vec<(WorkerId, Waker)> {
        if !self.queue.is_drained() {
            return Vec::new();
        }
        self.supervisor.on_drained();
        self.queue.take_all_idle()
    }

    /// Reports a completed reload. Returns the workers that were waiting for it.
    pub(super) fn check_reloaded(&mut self) -> Vec<(WorkerId, Waker)> {
        let Some(how) = self.supervisor.take_reloaded() else { return Vec::new() };
        self.has_reloaded = true;
        if let Some(caller) = self.reload.take() {
            let _ = caller.send(how); // it may have been dropped
        }
        mem::take(&mut self.standby)
    }

    /// Returns whether a reload has ended since the last call.
    pub(super) fn take_has_reloaded(&mut self) -> bool {
        mem::take(&mut self.has_reloaded)
    }

    /// Sends queued requests ahead to busy workers.
    fn send_ahead(&mut self, now: Instant) {
        let supervisor = &self.supervisor;
        self.queue.send_ahead(now, |id| supervisor.claim(id) == Claim::Take);
    }

    /// Reports the number of queued requests to the supervisor.
    pub(super) fn update_demand(&mut self) {
        self.supervisor.on_demand(self.queue.queued());
    }

    /// Removes the waker of a worker that waits for a request or for its generation.
    pub(super) fn take_waker(&mut self, id: WorkerId) -> Option<Waker> {
        let at = self.standby.iter().position(|(waiting, _)| *waiting == id);
        let waker = at.map(|at| self.standby.swap_remove(at).1);
        waker.or_else(|| self.queue.take_idle(id))
    }
}

/// A request for a worker to run.
pub(super) struct Work {
    pub(super) job: Arc<Job>,
    pub(super) request: Request,
    pub(super) allowance: Allowance,
}

/// A request that its worker could not answer.
pub(super) struct Unanswered {
    pub(super) request: Request,
    /// Whether the worker may have received it.
    pub(super) is_sent: bool,
    /// Whether the worker must exit.
    pub(super) crashed: bool,
    /// The answer, if the request cannot be queued again.
    pub(super) error: BoxError,
}

impl Pool {
    pub(super) fn new(config: Config, queue: usize, queue_timeout: Duration) -> Arc<Self> {
        let workers = config.max_workers();
        let admitted = workers.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        let state = State {
            queue: Queue::default(),
            supervisor: Supervisor::new(config, Instant::now()),
            wake_at: None,
            startup_error: None,
            standby: Vec::new(),
            reload: None,
            has_reloaded: false,
            has_ended: false,
            panics: 0,
        };
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(admitted)),
            admitted,
            queue_timeout,
            state: Mutex::new(state),
            alarm: Condvar::new(),
            started: Condvar::new(),
            closed: Notify::new(),
            ended: Notify::new(),
            refused: AtomicU64::new(0),
            #[cfg(feature = "process")]
            runtimes: runtimes::Runtimes::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so a poisoned one is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job and wakes an idle worker, one that `is_near` if there is one: in the runtime of the caller.
    pub(super) fn push(&self, job: &Arc<Job>, is_near: impl Fn(WorkerId) -> bool) {
        let mut s = self.lock();
        if s.supervisor.has_failed() {
            drop(s);
            return self.refuse(job, failed());
        }
        let Ok(()) = s.queue.push(job) else {
            drop(s);
            return self.refuse(job, closed());
        };
        let idle = s.queue.wake_near(job.queued_at(), is_near);
        let due =
            s.queue.wake_again_at().map_or_else(|| job.expires_at(), |at| at.min(job.expires_at()));
        self.wake_supervisor_by(&mut s, due);
        self.check_scale(&s);
        s.send_ahead(job.queued_at());
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
    }

    /// Wakes the supervisor's thread if a worker may have to be added or stopped.
    fn check_scale(&self, s: &State) {
        let (idle, queued) = (s.queue.idle(), s.queue.queued());
        if s.supervisor.may_grow(idle, queued) || s.supervisor.may_shrink(idle) {
            self.alarm.notify_one();
        }
    }

    /// Makes the supervisor's thread wake up no later than `at`. Since all requests have the same timeouts, this
    /// rarely notifies it.
    fn wake_supervisor_by(&self, s: &mut State, at: Instant) {
        if s.wake_at.is_none_or(|wake_at| at < wake_at) {
            s.wake_at = Some(at);
            self.alarm.notify_one();
        }
    }

    /// Sleeps until the supervisor has something to do or is woken.
    pub(super) fn sleep<'a>(&self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let idle = s.supervisor.idle();
        let due = [s.queue.next_expiry(idle), s.supervisor.deadline(), s.queue.wake_again_at()];
        s.wake_at = due.into_iter().flatten().min();
        match s.wake_at {
            None => self.alarm.wait(s).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let timeout = at.saturating_duration_since(Instant::now());
                self.alarm.wait_timeout(s, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Counts a job that was cancelled before a worker began it, or takes it back.
    pub(super) fn on_cancelled(&self, job: &Arc<Job>, was: Cancelled) {
        let mut s = self.lock();
        s.queue.on_cancelled(job, was);
        // Other jobs may have been taken back together with this one.
        let idle = s.queue.wake_next(Instant::now());
        self.check_closed(&s);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
    }

    /// Refuses all queued requests.
    pub(super) fn refuse_all(&self, error: fn() -> Error) {
        for job in self.update(|s| s.queue.take_all()) {
            self.refuse(&job, error());
        }
    }

    /// Answers a job that will not be run.
    pub(super) fn refuse(&self, job: &Job, error: Error) {
        job.refuse(error, || self.count_refused());
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        let now = Instant::now();
        let mut stats = Stats::default();
        let s = self.lock();
        s.queue.add_to(&mut stats, now);
        stats.workers = s.supervisor.ready();
        stats.stuck = s.supervisor.stuck(now);
        stats.abandoned = s.supervisor.abandoned_total();
        stats.panics = s.panics;
        stats.recycled = s.supervisor.recycled_total();
        stats.reforks = s.supervisor.reforks();
        stats.unexpected_exits = s.supervisor.unexpected_exits();
        stats.generation = s.supervisor.generation();
        drop(s);
        stats.refused = self.refused.load(Ordering::Relaxed);
        stats
    }
}
