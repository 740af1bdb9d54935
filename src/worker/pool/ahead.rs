//! Requests that are sent ahead to busy workers.

use std::{sync::Arc, time::Instant};

use super::{
    super::queue::{ahead::Lookahead, job::Job},
    Pool, Work,
};
use crate::policy::restart::WorkerId;

/// What a worker does after a request.
pub(in super::super) struct After {
    /// Whether it may take another request; otherwise it must exit.
    pub(in super::super) stays: bool,
    /// The request that was sent ahead, which the worker has begun. The worker finishes it before it exits.
    pub(in super::super) ahead: Option<Work>,
}

impl Pool {
    /// Registers a worker that may be sent requests ahead. [`leave`](Self::leave) removes it.
    pub(in super::super) fn add_lookahead(&self, id: WorkerId, link: Arc<dyn Lookahead>) {
        self.lock().queue.add_lookahead(id, link);
    }

    /// Sends queued requests ahead to busy workers, after one of them has begun a request.
    pub(in super::super) fn send_ahead(&self) {
        let mut s = self.lock();
        s.send_ahead(Instant::now());
    }

    /// Records the end of a request like [`done`](Self::done). If a request was sent ahead, the worker begins it at
    /// once, so that it never counts as idle in between. If the worker may not take another request, the one ahead is
    /// queued again, unless the worker has begun it.
    pub(in super::super) fn done_ahead(&self, id: WorkerId, crashed: bool) -> After {
        let mut s = self.lock();
        let now = Instant::now();
        let stays = self.end_request(&mut s, id, crashed);
        let is_released = !stays && s.queue.release_ahead(id);
        let begun = if is_released { None } else { s.queue.begin_ahead(id, now) };
        let ahead = begun.map(|begun| self.begin(&mut s, id, now, begun));
        self.check_closed(&s);
        let idle = s.queue.wake_next(now);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
        After { stays, ahead }
    }

    /// Queues the request again that was sent ahead to worker `id`. Returns `false` if the worker has begun it.
    pub(in super::super) fn release_ahead(&self, id: WorkerId) -> bool {
        let mut s = self.lock();
        let is_released = s.queue.release_ahead(id);
        let idle = s.queue.wake_next(Instant::now());
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
        is_released
    }

    /// Returns the job that worker `id` runs; `None` if it may have begun the next one.
    pub(in super::super) fn in_flight(&self, id: WorkerId) -> Option<Arc<Job>> {
        let s = self.lock();
        let (job, _) = s.queue.in_flight(id).filter(|_| !s.queue.has_begun_ahead(id))?;
        Some(job)
    }
}
