//! The requests of workers: how a worker takes the next one, and how it ends.

use std::{
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Instant,
};

use super::{
    super::queue::{Next, job::Job},
    Pool, State, Work,
};
#[cfg(feature = "process")]
use super::{After, Unanswered};
#[cfg(feature = "process")]
use crate::policy::restart::after;
use crate::{
    Request,
    policy::restart::{Claim, WorkerId},
};

impl Pool {
    /// Waits for the next request for worker `id`; `None` if the pool is closed and its queue empty.
    pub(in super::super) async fn next(&self, id: WorkerId) -> Option<Work> {
        poll_fn(|cx| self.poll_next(id, false, cx)).await
    }

    /// Waits like [`next`](Self::next), for a worker with its own thread, which yields to other threads once before
    /// it waits. If it shares its core with the thread that queues requests, it then finds several of them without
    /// being woken for each.
    pub(in super::super) async fn next_on_thread(&self, id: WorkerId) -> Option<Work> {
        let mut may_yield = true;
        poll_fn(|cx| self.poll_next(id, mem::take(&mut may_yield), cx)).await
    }

    fn poll_next(&self, id: WorkerId, mut may_yield: bool, cx: &Context<'_>) -> Poll<Option<Work>> {
        loop {
            let mut s = self.lock();
            let now = Instant::now(); // after the lock: a deadline may pass while this waits for it
            match s.supervisor.claim(id) {
                Claim::Take => {}
                Claim::Wait => {
                    s.take_waker(id);
                    s.standby.push((id, cx.waker().clone()));
                    return Poll::Pending;
                }
                Claim::Exit => {
                    drop(s);
                    self.leave(id);
                    return Poll::Ready(None);
                }
            }
            let next = s.queue.poll_next(id, now, mem::take(&mut may_yield), cx);
            let another = s.queue.wake_next(now);
            if let Some(at) = s.queue.retry_ahead_at() {
                self.wake_supervisor_by(&mut s, at);
            }
            let mut expired = None;
            let polled = match next {
                Poll::Ready(Next::Yield) => {
                    drop(s);
                    thread::yield_now();
                    continue;
                }
                Poll::Pending => Poll::Pending,
                Poll::Ready(Next::Closed) => Poll::Ready(None),
                Poll::Ready(Next::Begin(job, request)) => {
                    Poll::Ready(Some(self.begin(&mut s, id, now, (job, request))))
                }
                Poll::Ready(Next::Expired(job)) => {
                    expired = Some(job);
                    Poll::Pending
                }
            };
            self.check_scale(&s);
            drop(s);
            if let Some(waker) = another {
                waker.wake();
            }
            let Some(job) = expired else { return polled };
            self.refuse(&job, job.expiry());
        }
    }

    /// Begins a request on worker `id`.
    pub(super) fn begin(
        &self,
        s: &mut State,
        id: WorkerId,
        now: Instant,
        (job, request): (Arc<Job>, Request),
    ) -> Work {
        let allowance = s.supervisor.on_begin(id, now, job.deadline());
        s.queue.set_in_flight(id, job.clone(), allowance);
        self.wake_supervisor_by(s, allowance.until);
        Work { job, request, allowance }
    }

    /// Records that worker `id` has ended its request; `crashed` if it panicked. Returns whether it may take another
    /// one; otherwise it must exit.
    pub(in super::super) fn done(&self, id: WorkerId, crashed: bool) -> bool {
        let mut s = self.lock();
        let stays = self.end_request(&mut s, id, Instant::now(), crashed);
        self.check_closed(&s);
        stays
    }

    pub(super) fn end_request(
        &self,
        s: &mut State,
        id: WorkerId,
        now: Instant,
        crashed: bool,
    ) -> bool {
        s.queue.finish(id, now);
        s.panics += u64::from(crashed);
        let stays = s.supervisor.on_done(id, crashed);
        self.check_nominated(s);
        stays
    }

    /// Queues the request of a job again that worker `id` could not answer, for another worker. `is_sent` means that
    /// the worker may have received it, `crashed` that it must exit. If the request cannot be queued again, the job
    /// is answered with `error`. The worker continues as after [`done_ahead`](Self::done_ahead).
    #[cfg(feature = "process")]
    pub(in super::super) fn requeue(
        &self,
        id: WorkerId,
        job: &Arc<Job>,
        unanswered: Unanswered,
    ) -> After {
        let Unanswered { request, is_sent, crashed, error } = unanswered;
        let mut s = self.lock();
        let now = Instant::now();
        s.queue.take_in_flight(id);
        s.panics += u64::from(crashed);
        let stays = s.supervisor.on_done(id, crashed);
        self.check_nominated(&mut s);
        // A closed pool keeps its workers until no request is left.
        let sent_until = is_sent.then(|| after(now, self.queue_timeout));
        let is_queued = job.requeue(request, sent_until);
        if is_queued {
            s.queue.push_front(job);
        }
        let ahead = if crashed { None } else { self.begin_ahead(&mut s, id, now, stays) };
        let idle = s.queue.wake_next(now);
        self.wake_supervisor_by(&mut s, job.expires_at());
        self.check_closed(&s);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
        if !is_queued {
            drop(job.take_permit());
            job.answer(Err(error));
        }
        After { stays, ahead }
    }

    /// Reports the memory of worker `id` in bytes.
    pub(in super::super) fn on_memory(&self, id: WorkerId, bytes: u64) {
        let mut s = self.lock();
        s.supervisor.on_memory(id, bytes);
        self.check_nominated(&mut s);
    }

    /// Lets worker `id` be replaced, which has failed a check. Returns whether it was not to be replaced before.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_unhealthy(&self, id: WorkerId) -> bool {
        let mut s = self.lock();
        let is_new = s.supervisor.on_unhealthy(id);
        self.check_nominated(&mut s);
        is_new
    }

    /// Records that worker `id` takes no requests, since its process does not answer.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_hung(&self, id: WorkerId) {
        if self.lock().supervisor.on_hung(id) {
            self.alarm.notify_one(); // another worker may be needed
        }
    }

    /// Removes worker `id`, which takes no requests for a while, from the idle workers.
    #[cfg(feature = "process")]
    pub(in super::super) fn rest(&self, id: WorkerId) {
        let mut s = self.lock();
        s.queue.rest(id);
        let next = s.queue.wake_next(Instant::now());
        drop(s);
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Wakes the supervisor's thread if a worker may be replaced.
    fn check_nominated(&self, s: &mut State) {
        if s.supervisor.take_nominated() {
            self.alarm.notify_one();
        }
    }

    /// Wakes the supervisor's thread if the pool is closed: the last request may have ended.
    pub(super) fn check_closed(&self, s: &State) {
        if s.queue.is_closed() {
            self.alarm.notify_one();
        }
    }

    /// Removes worker `id`, which takes no more requests, from the queue.
    pub(in super::super) fn leave(&self, id: WorkerId) {
        let mut s = self.lock();
        s.queue.leave(id);
        let next = s.queue.wake_next(Instant::now());
        drop(s);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}
