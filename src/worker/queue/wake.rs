//! Which idle worker is woken for a job, and when.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::{Queue, lanes::ProcessId};
use crate::policy::restart::WorkerId;

/// A worker that waits for a job.
pub(super) struct IdleWorker {
    pub(super) id: WorkerId,
    pub(super) waker: Waker,
    pub(super) process: Option<ProcessId>,
}

pub(super) struct Coming {
    pub(super) worker: WorkerId,
    pub(super) since: Instant,
    /// Whether it is in the runtime of the callers of all waiting jobs. If that runtime is late, so are the callers:
    /// another worker gains nothing, so the supervisor's thread need not be woken to wake one.
    pub(super) is_near: bool,
}

/// Time after which another worker is woken if the first one has not taken its job: 1 ms, a few times the wake-up
/// time of a thread. Its runtime may be running another task of the application.
pub(super) const WAKE_TIMEOUT: Duration = Duration::from_millis(1);

impl Queue {
    /// Returns the waker of an idle worker if a job waits and no worker is on its way to it.
    pub(in super::super) fn wake_next(&mut self, now: Instant) -> Option<Waker> {
        self.retry_ahead(now);
        let is_late = |c: &Coming| now.saturating_duration_since(c.since) >= WAKE_TIMEOUT;
        if self.jobs.is_empty() || self.coming.as_ref().is_some_and(|c| !is_late(c)) {
            return None;
        }
        let at = self.first_idle(|_| true)?;
        let IdleWorker { id, waker, .. } = self.idle.remove(at);
        self.coming = Some(Coming { worker: id, since: now, is_near: false });
        Some(waker)
    }

    /// Wakes a worker like [`wake_next`](Self::wake_next), preferably one that `is_near`: in the runtime of the job's
    /// caller.
    pub(in super::super) fn wake_near(
        &mut self,
        now: Instant,
        is_near: impl Fn(WorkerId) -> bool,
    ) -> Option<Waker> {
        if let Some(at) = self.first_idle(&is_near) {
            let worker = self.idle.remove(at);
            self.idle.push(worker);
        }
        let waker = self.wake_next(now);
        if let Some(coming) = &mut self.coming {
            let was_near = if waker.is_some() { self.jobs.len() == 1 } else { coming.is_near };
            coming.is_near = was_near && is_near(coming.worker);
        }
        waker
    }

    /// Returns the index of the idle worker to wake first: of those whose process runs the fewest requests, one that
    /// `is_near`, and of these the one that became idle last.
    ///
    /// So a process that answers late, or not at all, gets no more requests than the others have, and several processes
    /// share the cores.
    fn first_idle(&self, is_near: impl Fn(WorkerId) -> bool) -> Option<usize> {
        let least = self.lanes.least_load();
        let mut first = None;
        for (at, idle) in self.idle.iter().enumerate().rev() {
            let key = (self.lanes.load(idle.process), !is_near(idle.id));
            if first.is_none_or(|(before, _)| key < before) {
                first = Some((key, at));
            }
            if key <= (least, false) {
                break; // no other one comes before it
            }
        }
        first.map(|(_, at)| at)
    }

    /// Returns when [`wake_next`](Self::wake_next) wakes another worker for a waiting job, although one was already
    /// woken, or for one that is ahead.
    pub(in super::super) fn wake_again_at(&self) -> Option<Instant> {
        let has_choice = !self.jobs.is_empty() && !self.idle.is_empty();
        let again = self.coming.as_ref().filter(|coming| has_choice && !coming.is_near);
        let again = again.map(|coming| coming.since + WAKE_TIMEOUT);
        [again, self.retry_ahead_at()].into_iter().flatten().min()
    }
}
