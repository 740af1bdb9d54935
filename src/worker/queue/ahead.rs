//! `Lookahead` and `Ahead`: requests that were sent to busy workers, one to each.
//!
//! A worker that finds its next request in its socket when it has answered one need not sleep and be woken, which
//! costs more than the exchange itself. Such a request still counts as queued, and can be taken back until the worker
//! has read it. It is taken back when another worker becomes idle, its caller disconnects, it expires, or the worker is
//! slow or must exit.

use std::{
    mem,
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

/// A worker that reads its next request after it has answered the current one.
pub(crate) trait Lookahead: Send + Sync {
    /// Sends a request, which the worker reads after it has answered the current one. Returns `false` if that is not
    /// possible: the requests of the worker are not short, or it has not read everything that was sent. Does not block.
    fn send_ahead(&self, request: &Request) -> bool;

    /// Takes back the request that was sent ahead. Returns `false` if the worker has read it. Does not block.
    fn take_back(&self) -> bool;

    /// Returns whether the worker has read the request that was sent ahead.
    fn has_begun(&self) -> bool;
}

/// The requests that were sent ahead, oldest first, and the workers that support it.
#[derive(Default)]
pub(super) struct Ahead {
    entries: Vec<Entry>,
    workers: Vec<(WorkerId, Arc<dyn Lookahead>)>,
}

struct Entry {
    worker: WorkerId,
    job: Arc<Job>,
    since: Instant,
    /// Whether its worker is known to have read it.
    is_begun: bool,
}

impl Entry {
    /// Takes the request back if its worker has not read it.
    fn take_back(&mut self) -> bool {
        self.is_begun = self.is_begun || !self.job.take_back();
        !self.is_begun
    }
}

impl Ahead {
    /// Registers a worker.
    pub(super) fn add_worker(&mut self, worker: WorkerId, link: Arc<dyn Lookahead>) {
        self.workers.push((worker, link));
    }

    /// Removes a worker that ends, after [`take_back`](Self::take_back).
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.workers.retain(|(id, _)| *id != worker);
    }

    /// Returns whether no request is ahead.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of requests that are ahead and not known to be begun.
    pub(super) fn queued(&self) -> usize {
        self.entries.iter().filter(|entry| !entry.is_begun).count()
    }

    /// Returns the workers without a request ahead, to which one may be sent.
    pub(super) fn candidates(&self) -> impl Iterator<Item = &(WorkerId, Arc<dyn Lookahead>)> {
        let is_free = |worker| self.entries.iter().all(|entry| entry.worker != worker);
        self.workers.iter().filter(move |(worker, _)| is_free(*worker))
    }

    /// Records that `job` was sent ahead to `worker`.
    pub(super) fn push(&mut self, worker: WorkerId, job: Arc<Job>, now: Instant) {
        self.entries.push(Entry { worker, job, since: now, is_begun: false });
    }

    /// Removes the job that is ahead at `worker`.
    pub(super) fn take(&mut self, worker: WorkerId) -> Option<Arc<Job>> {
        let at = self.entries.iter().position(|entry| entry.worker == worker)?;
        Some(self.entries.remove(at).job)
    }

    /// Takes back the request that is ahead at `worker`. Returns `Err` if the worker has begun it.
    pub(super) fn take_back(&mut self, worker: WorkerId) -> Result<Option<Arc<Job>>, ()> {
        let at = self.entries.iter().position(|entry| entry.worker == worker);
        let Some(at) = at else { return Ok(None) };
        if !self.entries[at].take_back() {
            return Err(());
        }
        Ok(Some(self.entries.remove(at).job))
    }

    /// Takes back the oldest request that no worker has read.
    pub(super) fn take_back_oldest(&mut self) -> Option<Arc<Job>> {
        self.take_back_where(|_| true, 1).pop()
    }

    /// Takes back requests that have been ahead for too long.
    pub(super) fn take_back_stale(&mut self, now: Instant) -> Vec<Arc<Job>> {
        let is_stale = |e: &Entry| now.saturating_duration_since(e.since) >= MAX_AHEAD;
        if !self.entries.first().is_some_and(is_stale) {
            return Vec::new();
        }
        self.take_back_where(is_stale, usize::MAX)
    }

    /// Takes back requests that have expired.
    pub(super) fn take_back_expired(&mut self, now: Instant) -> Vec<Arc<Job>> {
        self.take_back_where(|entry| entry.job.has_expired(now), usize::MAX)
    }

    /// Takes back all requests that no worker has read.
    pub(super) fn take_back_all(&mut self) -> Vec<Arc<Job>> {
        self.take_back_where(|_| true, usize::MAX)
    }

    fn take_back_where(&mut self, matches: impl Fn(&Entry) -> bool, max: usize) -> Vec<Arc<Job>> {
        let mut taken = Vec::new();
        let entries = mem::take(&mut self.entries);
        for mut entry in entries {
            if taken.len() < max && matches(&entry) && entry.take_back() {
                taken.push(entry.job);
            } else {
                self.entries.push(entry);
            }
        }
        taken
    }

    /// Removes jobs that were cancelled. Returns whether there were any.
    pub(super) fn remove_cancelled(&mut self) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.job.is_ahead());
        self.entries.len() < before
    }

    /// Returns the time at which the first request expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let queued = self.entries.iter().filter(|entry| !entry.is_begun);
        queued.map(|entry| entry.job.expires_at()).min()
    }

    /// Returns whether `worker` has begun the request that is ahead.
    pub(super) fn has_begun(&self, worker: WorkerId) -> bool {
        let is_ahead = self.entries.iter().any(|entry| entry.worker == worker);
        let mut workers = self.workers.iter();
        is_ahead && workers.any(|(id, link)| *id == worker && link.has_begun())
    }
}

impl Queue {
    /// Registers a worker that may be sent requests ahead.
    pub(in super::super) fn add_lookahead(&mut self, worker: WorkerId, link: Arc<dyn Lookahead>) {
        self.ahead.add_worker(worker, link);
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
        while self.jobs.front().is_some_and(|job| !job.is_queued()) {
            self.jobs.pop_front();
            self.cancelled = self.cancelled.saturating_sub(1);
        }
        let mut sent = Vec::new();
        for (worker, link) in self.ahead.candidates().filter(|(worker, _)| may_take(*worker)) {
            let Some(job) = self.jobs.front() else { break };
            // The supervisor's thread refuses an expired job.
            if job.has_expired(now) {
                break;
            }
            if job.send_ahead(link) {
                sent.extend(self.jobs.pop_front().map(|job| (*worker, job)));
            }
        }
        for (worker, job) in sent {
            self.ahead.push(worker, job, now);
        }
    }

    /// Begins the job that was sent ahead to `worker`, which has ended its previous job.
    pub(in super::super) fn begin_ahead(
        &mut self,
        worker: WorkerId,
        now: Instant,
    ) -> Option<(Arc<Job>, Request)> {
        let job = self.ahead.take(worker)?;
        let request = job.begin_ahead()?;
        self.wait_total += now.saturating_duration_since(job.queued_at());
        Some((job, request))
    }

    /// Queues the job again that was sent ahead to `worker`. Returns `false` if the worker has begun it.
    /// [`wake_next`](Self::wake_next) follows.
    pub(in super::super) fn release_ahead(&mut self, worker: WorkerId) -> bool {
        let taken = self.ahead.take_back(worker);
        if let Ok(Some(job)) = &taken {
            self.jobs.push_front(job.clone());
        }
        taken.is_ok()
    }

    /// Removes and returns the job that was sent ahead to `worker`, which has exited.
    pub(in super::super) fn take_ahead(&mut self, worker: WorkerId) -> Option<Arc<Job>> {
        self.ahead.take(worker)
    }

    /// Returns whether `worker` has read the job that was sent ahead, so that it is unknown which of the two it runs.
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
        for job in self.ahead.take_back_stale(now).into_iter().rev() {
            self.jobs.push_front(job);
        }
    }
}

#[cfg(test)]
mod tests;
