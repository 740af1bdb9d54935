//! `Lookahead` and `Ahead`: requests that were sent to busy workers.
//!
//! A worker that finds its next requests in its socket when it has answered one need not sleep and be woken, which
//! costs more than the exchange itself. Such a request still counts as queued, and can be taken back until the worker
//! has read it. It is taken back when another worker becomes idle, its caller disconnects, it expires, or the worker is
//! slow or must exit.
//!
//! A worker reads its requests in order. So when a request is taken back, the earlier ones are taken back too, and queued
//! again. All of this happens under the lock of the pool.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Queue, job::Job};
use crate::{Request, policy::restart::WorkerId};

/// A request is sent ahead only if the current request has run for less than this time, and the previous one took less:
/// 5 ms. For slower requests it saves nothing.
pub(crate) const MAX_DURATION: Duration = Duration::from_millis(5);

/// Maximum time that a request may be ahead while other workers take requests that were queued later: 10 ms, after
/// which its worker counts as slow.
const MAX_AHEAD: Duration = Duration::from_millis(10);

/// A worker that reads its next requests after it has answered the current one, in order. No method blocks.
pub(crate) trait Lookahead: Send + Sync {
    /// Sends a request, which the worker reads after earlier ones. Returns its id.
    ///
    /// # Errors
    /// The reason why the request cannot be sent.
    fn send_ahead(&self, request: &Request, now: Instant) -> Result<u32, NotSent>;

    /// Records that the worker has completed its request, and begins the oldest one that is ahead, which must be `id`.
    fn begin_ahead(&self, id: u32, now: Instant);

    /// Takes back requests that are ahead, from the oldest one that the worker has not read to `last`. Returns their
    /// ids. If the worker has read `last` meanwhile, the request after it may be taken back instead. If the worker has not
    /// read the current request either, that is taken back too, and its exchange fails as not sent.
    fn take_back(&self, last: u32) -> Vec<u32>;

    /// Returns whether the worker has read its current request.
    fn has_read_current(&self) -> bool;

    /// Returns whether the worker has read the oldest request that is ahead.
    fn has_begun(&self) -> bool;
}

/// The reason why a request was not sent ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSent {
    /// The worker takes no further request before it begins another one, or one of its own is taken back: it has no
    /// current request, its requests are not short, or it has enough of them.
    Full,
    /// This request cannot be sent ahead to any worker.
    Unsuitable,
}

/// The requests that are ahead, oldest first, and the workers that support it.
///
/// The pool's lock is held for each operation. To send a request, or to begin one of the oldest, takes time in proportion
/// to the number of workers, not to the number of requests that are ahead.
#[derive(Default)]
pub(super) struct Ahead {
    /// A worker begins one of the oldest, which is near the front.
    entries: VecDeque<Entry>,
    /// The number of entries with `is_begun`.
    begun: usize,
    workers: Vec<Candidate>,
    /// The latest time at which a request is taken back for an idle worker, after that was not possible.
    retry_at: Option<Instant>,
}

struct Entry {
    worker: WorkerId,
    id: u32,
    job: Arc<Job>,
    since: Instant,
    /// Whether its worker is known to have read it.
    is_begun: bool,
}

struct Candidate {
    worker: WorkerId,
    link: Arc<dyn Lookahead>,
    /// The number of its requests that are ahead.
    count: usize,
    /// Whether it has refused a request. Cleared when it begins one, and when one of its requests is taken back.
    is_full: bool,
}

impl Ahead {
    /// Registers a worker.
    pub(super) fn add_worker(&mut self, worker: WorkerId, link: Arc<dyn Lookahead>) {
        self.workers.push(Candidate { worker, link, count: 0, is_full: false });
    }

    /// Removes a worker that exits, after its requests were taken back.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.workers.retain(|candidate| candidate.worker != worker);
    }

    /// Returns whether no request is ahead.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of requests that are ahead and not known to be begun.
    pub(super) fn queued(&self) -> usize {
        self.entries.len() - self.begun
    }

    /// Returns the time since which the oldest of them is queued.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.entries.iter().find(|entry| !entry.is_begun).map(|entry| entry.job.queued_at())
    }

    fn candidate(&mut self, worker: WorkerId) -> Option<&mut Candidate> {
        self.workers.iter_mut().find(|candidate| candidate.worker == worker)
    }

    fn remove(&mut self, at: usize) -> Arc<Job> {
        let Entry { worker, job, is_begun, .. } =
            self.entries.remove(at).expect("it is the index of an entry");
        self.begun -= usize::from(is_begun);
        if let Some(candidate) = self.candidate(worker) {
            candidate.count -= 1;
            candidate.is_full = false;
        }
        job
    }

    /// Clears `is_full` of a worker, which has begun a request.
    fn reopen(&mut self, worker: WorkerId) {
        if let Some(candidate) = self.candidate(worker) {
            candidate.is_full = false;
        }
    }

    /// Sends a job ahead to the worker with the fewest that `may_take` one. Returns whether that was possible. A worker that
    /// is full is asked once.
    fn send(&mut self, job: &Arc<Job>, now: Instant, may_take: impl Fn(WorkerId) -> bool) -> bool {
        loop {
            let mut open = None::<&mut Candidate>;
            for candidate in self.workers.iter_mut().filter(|c| !c.is_full) {
                let has_fewer = open.as_ref().is_none_or(|open| candidate.count < open.count);
                if has_fewer && may_take(candidate.worker) {
                    open = Some(candidate);
                }
            }
            let Some(candidate) = open else { return false };
            match job.send_ahead(&*candidate.link, now) {
                Ok(id) => {
                    candidate.count += 1;
                    let worker = candidate.worker;
                    let job = job.clone();
                    self.entries.push_back(Entry { worker, id, job, since: now, is_begun: false });
                    return true;
                }
                Err(NotSent::Full) => candidate.is_full = true,
                Err(NotSent::Unsuitable) => return false,
            }
        }
    }

    /// Removes and returns the oldest job that is ahead at `worker`, which begins it, with its request.
    fn begin(&mut self, worker: WorkerId, now: Instant) -> Option<(Arc<Job>, Request)> {
        let at = self.entries.iter().position(|entry| entry.worker == worker)?;
        let Entry { id, job, .. } = &self.entries[at];
        let (id, request) = (*id, job.begin_ahead());
        // Without a request no exchange follows. The next one must not take the response for its own.
        if request.is_some() {
            self.candidate(worker)?.link.begin_ahead(id, now);
        }
        let job = self.remove(at);
        Some((job, request?))
    }

    /// Removes and returns all jobs that are ahead at `worker`, which has exited.
    fn take(&mut self, worker: WorkerId) -> Vec<Arc<Job>> {
        let mut taken = Vec::new();
        while let Some(at) = self.entries.iter().position(|entry| entry.worker == worker) {
            taken.push(self.remove(at));
        }
        taken
    }

    /// Takes back an entry, and the earlier entries of its worker. Returns the jobs that are queued again, oldest first.
    /// The others have begun, or their callers have disconnected.
    fn take_back(&mut self, at: usize) -> Vec<Arc<Job>> {
        let Entry { worker, id, .. } = self.entries[at];
        let ids = self.candidate(worker).map_or_else(Vec::new, |c| c.link.take_back(id));
        let mut taken = Vec::new();
        let (mut next, mut begun) = (0, at + 1);
        // Those after `at` too: the worker may have read that one meanwhile.
        while let Some(entry) = self.entries.get_mut(next) {
            if entry.worker == worker && ids.contains(&entry.id) {
                let job = self.remove(next);
                begun -= usize::from(next < begun);
                if job.take_back() {
                    taken.push(job);
                }
            } else {
                if entry.worker == worker && next < begun && !entry.is_begun {
                    entry.is_begun = true;
                    self.begun += 1;
                }
                next += 1;
            }
        }
        taken
    }

    /// Takes back the oldest request that no worker has read, for an idle worker. If its worker has not read its current
    /// request either, that worker is about to run, so the request is left there for a moment.
    pub(super) fn take_back_oldest(&mut self, now: Instant) -> Option<Arc<Job>> {
        self.retry_at = None;
        let (mut at, mut asleep) = (0, Vec::new());
        while let Some(entry) = self.entries.get(at) {
            let (worker, is_begun, since) = (entry.worker, entry.is_begun, entry.since);
            let is_stale = now.saturating_duration_since(since) >= MAX_AHEAD;
            let has_read = |c: &mut Candidate| c.link.has_read_current();
            if is_begun || asleep.contains(&worker) {
                at += 1;
            } else if is_stale || self.candidate(worker).is_some_and(has_read) {
                if let Some(job) = self.take_back(at).pop() {
                    return Some(job);
                }
            } else {
                let retry_at = since + MAX_AHEAD;
                self.retry_at = Some(self.retry_at.map_or(retry_at, |at| at.min(retry_at)));
                asleep.push(worker);
            }
        }
        None
    }

    /// Takes back the matching requests, and the earlier requests of their workers. Returns both, oldest first.
    fn take_back_where(&mut self, is_meant: impl Fn(&Entry) -> bool) -> Vec<Arc<Job>> {
        let mut taken = Vec::new();
        while let Some(at) = self.entries.iter().rposition(|e| !e.is_begun && is_meant(e)) {
            taken.extend(self.take_back(at));
        }
        taken.sort_by_key(|job| job.queued_at());
        taken
    }

    /// Takes back requests that have been ahead for too long.
    fn take_back_stale(&mut self, now: Instant) -> Vec<Arc<Job>> {
        let is_stale = |e: &Entry| now.saturating_duration_since(e.since) >= MAX_AHEAD;
        if !self.entries.front().is_some_and(is_stale) {
            return Vec::new();
        }
        self.take_back_where(is_stale)
    }

    /// Takes back requests that have expired, and the earlier ones of their workers.
    pub(super) fn take_back_expired(&mut self, now: Instant) -> Vec<Arc<Job>> {
        self.take_back_where(|entry| entry.job.has_expired(now))
    }

    /// Takes back all requests that no worker has read.
    pub(super) fn take_back_all(&mut self) -> Vec<Arc<Job>> {
        self.take_back_where(|_| true)
    }

    /// Returns the time at which the first request expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let queued = self.entries.iter().filter(|entry| !entry.is_begun);
        queued.map(|entry| entry.job.expires_at()).min()
    }

    /// Returns whether `worker` has begun the oldest request that is ahead.
    pub(super) fn has_begun(&self, worker: WorkerId) -> bool {
        let is_ahead = self.entries.iter().any(|entry| entry.worker == worker);
        let mut workers = self.workers.iter();
        is_ahead && workers.any(|c| c.worker == worker && c.link.has_begun())
    }
}

impl Queue {
    /// Registers a worker that may be sent requests ahead.
    pub(in super::super) fn add_lookahead(&mut self, worker: WorkerId, link: Arc<dyn Lookahead>) {
        self.ahead.add_worker(worker, link);
    }

    /// Records that `worker` has begun a job, so that it is asked again by the next [`send_ahead`](Self::send_ahead).
    pub(in super::super) fn on_begun(&mut self, worker: WorkerId) {
        self.ahead.reopen(worker);
    }

    /// Sends waiting jobs ahead to busy workers that `may_take` one, if no worker is idle or on its way.
    pub(in super::super) fn send_ahead(
        &mut self,
        now: Instant,
        may_take: impl Fn(WorkerId) -> bool,
    ) {
        let has_free_worker = !self.idle.is_empty() || self.coming.is_some();
        if self.ahead.workers.is_empty() || self.jobs.is_empty() || has_free_worker {
            return;
        }
        self.recover_stale(now);
        while let Some(job) = self.jobs.front() {
            if !job.is_queued() {
                self.cancelled = self.cancelled.saturating_sub(1);
            } else if job.has_expired(now) || !self.ahead.send(job, now, &may_take) {
                return; // the supervisor's thread refuses one that has expired
            }
            self.jobs.pop_front();
        }
    }

    /// Begins the oldest job that was sent ahead to `worker`, which has ended its previous job.
    pub(in super::super) fn begin_ahead(
        &mut self,
        worker: WorkerId,
        now: Instant,
    ) -> Option<(Arc<Job>, Request)> {
        let (job, request) = self.ahead.begin(worker, now)?;
        self.wait_total += now.saturating_duration_since(job.queued_at());
        Some((job, request))
    }

    /// Queues the jobs again that were sent ahead to `worker`. Returns `false` if the worker has begun one of them.
    /// [`wake_next`](Self::wake_next) follows.
    pub(in super::super) fn release_ahead(&mut self, worker: WorkerId) -> bool {
        let jobs = self.ahead.take_back_where(|entry| entry.worker == worker);
        self.requeue(&jobs);
        !self.ahead.entries.iter().any(|entry| entry.worker == worker)
    }

    /// Removes the jobs that were sent ahead to `worker`, which has exited after it had begun them. Queues those again
    /// whose methods are idempotent (RFC 9110 section 9.2.2) until the end of a new queue timeout, and returns the others.
    /// [`wake_next`](Self::wake_next) follows.
    pub(in super::super) fn end_ahead(
        &mut self,
        worker: WorkerId,
        queue_until: Instant,
    ) -> Vec<Arc<Job>> {
        let (mut again, mut lost) = (Vec::new(), Vec::new());
        for job in self.ahead.take(worker) {
            let request = job.begin_ahead().filter(|request| request.method().is_idempotent());
            let is_queued = request.is_some_and(|request| job.requeue(request, Some(queue_until)));
            if is_queued { again.push(job) } else { lost.push(job) }
        }
        self.requeue(&again);
        lost
    }

    /// Takes back a job whose caller has disconnected. Returns `false` if its worker has begun it.
    pub(super) fn cancel_ahead(&mut self, job: &Arc<Job>) -> bool {
        let entries = &self.ahead.entries;
        let Some(at) = entries.iter().position(|entry| Arc::ptr_eq(&entry.job, job)) else {
            return false; // it has begun
        };
        let jobs = self.ahead.take_back(at);
        self.requeue(&jobs);
        !job.is_ahead()
    }

    /// Returns whether `worker` has read the job that was sent ahead, so that it is unknown which of two jobs it
    /// runs.
    pub(in super::super) fn has_begun_ahead(&self, worker: WorkerId) -> bool {
        self.ahead.has_begun(worker)
    }

    /// Returns the number of jobs that are ahead.
    #[cfg(test)]
    pub(in super::super) fn ahead(&self) -> usize {
        self.ahead.entries.len()
    }

    /// Queues jobs again that were sent ahead to slow workers.
    pub(super) fn recover_stale(&mut self, now: Instant) {
        let jobs = self.ahead.take_back_stale(now);
        self.requeue(&jobs);
    }

    /// Tries again to take back a job for an idle worker.
    pub(super) fn retry_ahead(&mut self, now: Instant) {
        let Some(at) = self.ahead.retry_at else { return };
        if self.jobs.is_empty() && !self.idle.is_empty() && !self.ahead.is_empty() {
            self.jobs.extend(self.ahead.take_back_oldest(now));
            self.record_other_caller();
        } else if at <= now {
            self.ahead.retry_at = None;
        }
    }

    /// Returns the latest time of the next try. The end of a request may cause one earlier. The time remains when no try
    /// is needed any more: under load the next one is often later, so that the supervisor's thread, which sleeps until
    /// then, need not be woken for it.
    pub(in super::super) fn retry_ahead_at(&self) -> Option<Instant> {
        self.ahead.retry_at
    }

    /// Queues jobs again that were taken back, before all others.
    pub(super) fn requeue(&mut self, jobs: &[Arc<Job>]) {
        for job in jobs.iter().rev() {
            self.push_front(job);
        }
    }
}

#[cfg(test)]
mod tests;
