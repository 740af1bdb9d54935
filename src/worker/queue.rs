//! `Queue`: requests that wait for a worker, workers that wait for a request, and the requests that workers run.

#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
pub(super) mod ahead;
pub(super) mod job;
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
mod lanes;
pub(super) mod reservation;
pub(super) mod streamed;
mod wake;

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use self::{
    ahead::Ahead,
    job::{Cancelled, Job},
    lanes::{Lanes, ProcessId},
    wake::{Coming, IdleWorker},
};
use super::{
    error::{Closed, QueueTimeout, WorkersFailed},
    stats::Stats,
};
use crate::{
    Request,
    error::{Error, Kind},
    policy::restart::{Allowance, WorkerId},
};

/// The queue of a pool, behind the pool's lock.
///
/// Idle workers pull: a job is assigned to a worker only when that worker begins it, so it never waits for a busy
/// worker while another one is idle. A job that was sent [ahead](Ahead) to a busy worker is taken back in that case.
/// The permits of the pool limit the length; each job owns one.
///
/// A job does not wake a worker while another one has been woken and has not yet taken its job. That worker wakes the
/// next one if jobs are left: workers that are already running may have taken them in the meantime, without a switch
/// of threads for each.
///
/// It identifies workers by their id and waker. Methods that may end a job return it, so that its caller is woken
/// without the lock.
#[derive(Default)]
pub(super) struct Queue {
    /// The queued jobs, oldest first. Cancelled ones stay until they reach the front or are half of all.
    jobs: VecDeque<Arc<Job>>,
    /// The number of cancelled jobs in `jobs`.
    cancelled: usize,
    ahead: Ahead,
    /// The worker that became idle last is at the end. It is woken first, since its caches are warm, unless it is a lane
    /// of a process that runs more requests than another one.
    idle: Vec<IdleWorker>,
    lanes: Lanes,
    /// The worker that was woken or has yielded to other threads, and has not yet taken a job.
    coming: Option<Coming>,
    in_flight: Vec<InFlight>,
    /// When each worker ended its last job.
    ended: Vec<(WorkerId, Instant)>,
    is_closed: bool,
    served: u64,
    cancelled_total: u64,
    wait_total: Duration,
}

/// A job that a worker runs.
struct InFlight {
    worker: WorkerId,
    job: Arc<Job>,
    /// The time that it may take.
    allowance: Allowance,
    process: Option<ProcessId>,
}

/// The result of `next` for an idle worker.
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Next {
    /// It runs this request.
    Begin(Arc<Job>, Request),
    /// This job has expired: refuse it and call `next` again.
    Expired(Arc<Job>),
    /// There is no job: it yields to other threads, which may bring one, and asks again.
    Yield,
    /// There is no job and will be none, not even one that a worker returns.
    Closed,
}

impl Queue {
    /// Queues a job. [`wake_next`](Self::wake_next) follows.
    ///
    /// # Errors
    /// The queue is closed.
    pub(super) fn push(&mut self, job: &Arc<Job>) -> Result<(), ()> {
        if self.is_closed {
            return Err(());
        }
        self.jobs.push_back(job.clone());
        Ok(())
    }

    /// Queues a job again that a worker has given back, before all others. [`wake_next`](Self::wake_next)
    /// follows.
    pub(super) fn push_front(&mut self, job: &Arc<Job>) {
        self.jobs.push_front(job.clone());
        self.record_other_caller();
    }

    /// Records that a job waits whose caller may be in another runtime than the worker that was woken.
    fn record_other_caller(&mut self) {
        if let Some(coming) = &mut self.coming {
            coming.is_near = false;
        }
    }

    /// Returns the number of idle workers.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Removes the waker of an idle worker.
    pub(super) fn take_idle(&mut self, worker: WorkerId) -> Option<Waker> {
        let at = self.idle.iter().position(|idle| idle.id == worker)?;
        Some(self.idle.swap_remove(at).waker)
    }

    /// Registers a worker that is a lane of a process, before its first job.
    #[cfg(feature = "process")]
    pub(super) fn add_lane(&mut self, worker: WorkerId, process: ProcessId) {
        self.lanes.add(worker, process);
    }

    /// Removes a worker that takes no jobs for a while from the idle ones. It may have been woken for one:
    /// [`wake_next`](Self::wake_next) follows.
    pub(super) fn rest(&mut self, worker: WorkerId) {
        self.idle.retain(|idle| idle.id != worker);
        self.coming.take_if(|coming| coming.worker == worker);
    }

    /// Removes a worker that takes no more jobs. It may have been woken for one: [`wake_next`](Self::wake_next)
    /// follows.
    pub(super) fn leave(&mut self, worker: WorkerId) {
        self.rest(worker);
        self.ended.retain(|(id, _)| *id != worker);
        self.release_ahead(worker);
        self.ahead.remove_worker(worker);
        self.lanes.remove(worker);
    }

    /// Returns the next job for `worker`, or registers it as idle; if it `may_yield`, it is told to do so before.
    /// [`wake_next`](Self::wake_next) follows.
    pub(super) fn poll_next(
        &mut self,
        worker: WorkerId,
        now: Instant,
        may_yield: bool,
        cx: &Context<'_>,
    ) -> Poll<Next> {
        self.coming.take_if(|coming| coming.worker == worker);
        self.recover_stale(now);
        while let Some(job) = self.jobs.pop_front().or_else(|| self.ahead.take_back_oldest(now)) {
            if now >= job.expires_with_idle_at() && job.is_queued() {
                return Poll::Ready(Next::Expired(job));
            }
            let Some(request) = job.begin() else {
                self.cancelled = self.cancelled.saturating_sub(1);
                continue;
            };
            self.idle.retain(|idle| idle.id != worker);
            self.wait_total += now.saturating_duration_since(job.queued_at());
            return Poll::Ready(Next::Begin(job, request));
        }
        self.cancelled = 0;
        if self.is_closed && self.in_flight.is_empty() && self.ahead.is_empty() {
            return Poll::Ready(Next::Closed);
        }
        if may_yield && self.coming.is_none() {
            self.coming = Some(Coming { worker, since: now, is_near: false });
            return Poll::Ready(Next::Yield);
        }
        match self.idle.iter_mut().find(|idle| idle.id == worker) {
            Some(idle) => idle.waker.clone_from(cx.waker()),
            None => {
                let process = self.lanes.process(worker);
                self.idle.push(IdleWorker { id: worker, waker: cx.waker().clone(), process });
            }
        }
        Poll::Pending
    }

    /// Records that `worker` runs `job`.
    pub(super) fn set_in_flight(&mut self, worker: WorkerId, job: Arc<Job>, allowance: Allowance) {
        let process = self.lanes.process(worker);
        self.lanes.begin(process);
        self.in_flight.push(InFlight { worker, job, allowance, process });
    }

    /// Records that `worker` has ended its job.
    pub(super) fn finish(&mut self, worker: WorkerId, now: Instant) {
        self.served += 1;
        self.take_in_flight(worker);
        match self.ended.iter_mut().find(|(id, _)| *id == worker) {
            Some((_, at)) => *at = now,
            None => self.ended.push((worker, now)),
        }
    }

    /// Returns when `worker` ended its last job.
    pub(super) fn ended_at(&self, worker: WorkerId) -> Option<Instant> {
        self.ended.iter().find(|(id, _)| *id == worker).map(|(_, at)| *at)
    }

    /// Returns the job of `worker` and the time that it may take.
    pub(super) fn in_flight(&self, worker: WorkerId) -> Option<(Arc<Job>, Allowance)> {
        let running = self.in_flight.iter().find(|r| r.worker == worker)?;
        Some((running.job.clone(), running.allowance))
    }

    /// Removes the job that `worker` runs, and returns it.
    pub(super) fn take_in_flight(&mut self, worker: WorkerId) -> Option<Arc<Job>> {
        let at = self.in_flight.iter().position(|r| r.worker == worker)?;
        let InFlight { job, process, .. } = self.in_flight.swap_remove(at);
        self.lanes.end(process);
        Some(job)
    }

    /// Removes the job that `worker` runs, and still runs until it [exits](Self::exit), and returns it.
    pub(super) fn abandon(&mut self, worker: WorkerId) -> Option<Arc<Job>> {
        let at = self.in_flight.iter().position(|r| r.worker == worker)?;
        let InFlight { job, process, .. } = self.in_flight.swap_remove(at);
        self.lanes.abandon(worker, process);
        Some(job)
    }

    /// Records that `worker` has exited.
    pub(super) fn exit(&mut self, worker: WorkerId) {
        self.lanes.exit(worker);
    }

    /// Counts a job that was cancelled before it was begun. One that was sent ahead is taken back; if its worker has
    /// begun it, it is not counted.
    pub(super) fn on_cancelled(&mut self, job: &Arc<Job>, was: Cancelled) {
        if was == Cancelled::Ahead {
            self.cancelled_total += u64::from(self.cancel_ahead(job));
            return;
        }
        self.cancelled_total += 1;
        self.cancelled += 1;
        if self.cancelled * 2 > self.jobs.len() {
            self.jobs.retain(|job| job.is_queued());
            self.cancelled = 0;
        }
    }

    /// Removes the jobs that have expired, including cancelled ones. Those that `idle` workers will take remain for a moment.
    pub(super) fn take_expired(&mut self, now: Instant, idle: usize) -> Vec<Arc<Job>> {
        let taken = self.ahead.take_back_expired(now);
        let (mut expired, others): (Vec<_>, _) =
            taken.into_iter().partition(|j| j.has_expired(now));
        self.requeue(&others);
        let mut index = 0;
        self.jobs.retain(|job| {
            let has_expired = now >= expires_at(job, index < idle);
            index += 1;
            if has_expired {
                expired.push(job.clone());
            }
            !has_expired
        });
        if !expired.is_empty() {
            self.cancelled = self.jobs.iter().filter(|job| !job.is_queued()).count();
        }
        expired
    }

    /// Returns the time at which the first job expires while there are `idle` workers.
    pub(super) fn next_expiry(&self, idle: usize) -> Option<Instant> {
        let queued = self.jobs.iter().enumerate().map(|(n, job)| expires_at(job, n < idle));
        queued.chain(self.ahead.next_expiry()).min()
    }

    /// Closes the queue: it accepts only jobs that workers return.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Removes the wakers of all idle workers.
    pub(super) fn take_all_idle(&mut self) -> Vec<(WorkerId, Waker)> {
        mem::take(&mut self.idle).into_iter().map(|idle| (idle.id, idle.waker)).collect()
    }

    /// Removes all jobs that no worker has begun.
    pub(super) fn take_all(&mut self) -> VecDeque<Arc<Job>> {
        self.cancelled = 0;
        let mut jobs = VecDeque::from(self.ahead.take_back_all());
        jobs.append(&mut self.jobs);
        jobs
    }

    /// Returns whether it is closed, and no job waits or is run.
    pub(super) fn is_drained(&self) -> bool {
        // Not by `cancelled`: it is too high for a moment when a job is cancelled as it is refused.
        let is_idle = self.in_flight.is_empty() && self.ahead.is_empty();
        self.is_closed && is_idle && !self.jobs.iter().any(|job| job.is_queued())
    }

    /// Returns whether a job waits, or was cancelled in the queue.
    pub(super) fn has_jobs(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Returns the number of waiting jobs without cancelled ones.
    pub(super) fn queued(&self) -> usize {
        self.jobs.len().saturating_sub(self.cancelled) + self.ahead.queued()
    }

    /// Adds the figures of the queue to `stats`.
    pub(super) fn add_to(&self, stats: &mut Stats, now: Instant) {
        stats.busy = self.in_flight.len();
        stats.queued = self.queued();
        stats.served = self.served;
        stats.cancelled = self.cancelled_total;
        stats.queue_wait = self.wait_total;
        let queued = self.jobs.iter().find(|job| job.is_queued()).map(|job| job.queued_at());
        let oldest = queued.into_iter().chain(self.ahead.oldest()).min();
        stats.oldest_wait = oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }
}

/// Returns the time at which a queued job is refused.
fn expires_at(job: &Job, has_idle_worker: bool) -> Instant {
    if has_idle_worker { job.expires_with_idle_at() } else { job.expires_at() }
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Overloaded, Closed)
}

pub(super) fn queue_timeout() -> Error {
    Error::new(Kind::Overloaded, QueueTimeout)
}

pub(super) fn failed() -> Error {
    Error::new(Kind::Overloaded, WorkersFailed)
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
