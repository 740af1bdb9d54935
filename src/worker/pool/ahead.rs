//! Requests that are sent ahead to busy workers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        process::GateError,
        queue::{ahead::Lookahead, job::Job},
    },
    Pool, State, Work,
};
use crate::{
    error::{Error, Kind},
    policy::restart::{WorkerId, after},
};

/// Maximum time between a line of output and its receipt: 5 ms, a multiple of the time that a woken thread usually takes.
const LINE_DELAY: Duration = Duration::from_millis(5);

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

    /// Sends queued requests ahead to busy workers. Called when worker `id` has begun a request.
    pub(in super::super) fn send_ahead(&self, id: WorkerId) {
        let mut s = self.lock();
        s.queue.on_begun(id);
        s.send_ahead(Instant::now());
    }

    /// Records the end of a request like [`done`](Self::done). If requests were sent ahead, the worker begins the next
    /// one at once, so that it never counts as idle in between. If the worker may not take another request, those ahead
    /// are queued again, unless the worker has begun them.
    pub(in super::super) fn done_ahead(&self, id: WorkerId, crashed: bool) -> After {
        let mut s = self.lock();
        let now = Instant::now();
        let stays = self.end_request(&mut s, id, now, crashed);
        let ahead = self.begin_ahead(&mut s, id, now, stays);
        self.check_closed(&s);
        let idle = s.queue.wake_next(now);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
        After { stays, ahead }
    }

    /// Begins the next request that was sent ahead to worker `id`. If the worker does not stay, those that it has not
    /// begun are queued again.
    pub(super) fn begin_ahead(
        &self,
        s: &mut State,
        id: WorkerId,
        now: Instant,
        stays: bool,
    ) -> Option<Work> {
        if !stays && s.queue.release_ahead(id) {
            return None;
        }
        let begun = s.queue.begin_ahead(id, now)?;
        Some(self.begin(s, id, now, begun))
    }

    /// Queues the requests again that were sent ahead to worker `id`. Returns `false` if the worker has begun one.
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

    /// Ends the requests that were sent ahead to worker `id`, which has exited after it had begun them: another worker is
    /// sent those that may be repeated.
    pub(in super::super) fn end_ahead(&self, id: WorkerId) {
        let mut s = self.lock();
        let now = Instant::now();
        let queue_until = after(now, self.queue_timeout);
        let lost = s.queue.end_ahead(id, queue_until);
        self.wake_supervisor_by(&mut s, queue_until);
        let idle = s.queue.wake_next(now);
        self.check_closed(&s);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
        for job in lost {
            drop(job.take_permit());
            job.answer(Err(Error::new(Kind::BadGateway, GateError::Closed).into()));
        }
    }

    /// Answers the request that worker `id` has, if there is one, whose runtime has ended. Returns whether there was
    /// one. The worker must exit.
    pub(in super::super) fn lose_request(&self, id: WorkerId) -> bool {
        let Some(job) = self.lock().queue.take_in_flight(id) else { return false };
        drop(job.take_permit());
        job.abort(|| Error::new(Kind::BadGateway, GateError::Closed));
        true
    }

    /// Returns the job that worker `id` runs, for a line of its output; `None` if the line may be of another job: one that
    /// was sent ahead, or one whose end another thread has seen before the line.
    pub(in super::super) fn in_flight(&self, id: WorkerId) -> Option<Arc<Job>> {
        let s = self.lock();
        let just_ended = |at: Instant| at.elapsed() < LINE_DELAY;
        if self.runtimes.is_used() && s.queue.ended_at(id).is_some_and(just_ended) {
            return None;
        }
        let (job, _) = s.queue.in_flight(id).filter(|_| !s.queue.has_begun_ahead(id))?;
        Some(job)
    }
}
