//! `Pool`: the state that the handles, the workers and the supervisor of a pool share.

#[cfg(feature = "process")]
mod ahead;
#[cfg(feature = "process")]
mod runtimes;

#[cfg(feature = "process")]
pub(super) use self::ahead::After;

use std::{
    future::poll_fn,
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, oneshot};

use super::{
    error::WorkerPanicked,
    queue::{
        Next, Queue, closed, failed,
        job::{Cancelled, Job},
    },
    stats::Stats,
};
use crate::{
    Request,
    error::{BoxError, Chain, Error, Kind},
    policy::restart::{Allowance, Claim, Config, Reloaded, Startup, Supervisor, WorkerId},
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
        if let Some(caller) = self.reload.take() {
            let _ = caller.send(how); // it may have been dropped
        }
        mem::take(&mut self.standby)
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
        let workers = config.workers.max(config.scale.max);
        let admitted = workers.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        let state = State {
            queue: Queue::default(),
            supervisor: Supervisor::new(config, Instant::now()),
            wake_at: None,
            startup_error: None,
            standby: Vec::new(),
            reload: None,
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

    /// Queues a job and wakes an idle worker.
    pub(super) fn push(&self, job: &Arc<Job>) {
        let mut s = self.lock();
        if s.supervisor.has_failed() {
            drop(s);
            return self.refuse(job, failed());
        }
        let Ok(()) = s.queue.push(job) else {
            drop(s);
            return self.refuse(job, closed());
        };
        let idle = s.queue.wake_next(job.queued_at());
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
        let due = [s.queue.next_expiry(), s.supervisor.deadline(), s.queue.wake_again_at()];
        s.wake_at = due.into_iter().flatten().min();
        match s.wake_at {
            None => self.alarm.wait(s).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let timeout = at.saturating_duration_since(Instant::now());
                self.alarm.wait_timeout(s, timeout).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Waits for the next request for worker `id`; `None` if the pool is closed and its queue empty.
    pub(super) async fn next(&self, id: WorkerId) -> Option<Work> {
        poll_fn(|cx| self.poll_next(id, false, cx)).await
    }

    /// Waits like [`next`](Self::next), for a worker with its own thread, which yields to other threads once before
    /// it waits. If it shares its core with the thread that queues requests, it then finds several of them without
    /// being woken for each.
    pub(super) async fn next_on_thread(&self, id: WorkerId) -> Option<Work> {
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
    fn begin(
        &self,
        s: &mut State,
        id: WorkerId,
        now: Instant,
        (job, request): (Arc<Job>, Request),
    ) -> Work {
        let allowance = s.supervisor.on_begin(id, now, job.deadline());
        s.queue.set_in_flight(id, job.clone(), allowance.total);
        self.wake_supervisor_by(s, allowance.until);
        Work { job, request, allowance }
    }

    /// Records that worker `id` has ended its request; `crashed` if it panicked. Returns whether it may take another
    /// one; otherwise it must exit.
    pub(super) fn done(&self, id: WorkerId, crashed: bool) -> bool {
        let mut s = self.lock();
        let stays = self.end_request(&mut s, id, Instant::now(), crashed);
        self.check_closed(&s);
        stays
    }

    fn end_request(&self, s: &mut State, id: WorkerId, now: Instant, crashed: bool) -> bool {
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
    pub(super) fn requeue(&self, id: WorkerId, job: &Arc<Job>, unanswered: Unanswered) -> After {
        let Unanswered { request, is_sent, crashed, error } = unanswered;
        let mut s = self.lock();
        let now = Instant::now();
        s.queue.take_in_flight(id);
        s.panics += u64::from(crashed);
        let stays = s.supervisor.on_done(id, crashed);
        self.check_nominated(&mut s);
        // A closed pool keeps its workers until no request is left.
        let is_queued = job.requeue(request, is_sent);
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
    pub(super) fn on_memory(&self, id: WorkerId, bytes: u64) {
        let mut s = self.lock();
        s.supervisor.on_memory(id, bytes);
        self.check_nominated(&mut s);
    }

    /// Wakes the supervisor's thread if a worker may be replaced.
    fn check_nominated(&self, s: &mut State) {
        if s.supervisor.take_nominated() {
            self.alarm.notify_one();
        }
    }

    /// Wakes the supervisor's thread if the pool is closed: the last request may have ended.
    fn check_closed(&self, s: &State) {
        if s.queue.is_closed() {
            self.alarm.notify_one();
        }
    }

    /// Removes worker `id`, which takes no more requests, from the queue.
    pub(super) fn leave(&self, id: WorkerId) {
        let mut s = self.lock();
        s.queue.leave(id);
        let next = s.queue.wake_next(Instant::now());
        drop(s);
        if let Some(waker) = next {
            waker.wake();
        }
    }

    /// Begins to replace all workers by a new generation, which must be ready within `timeout`. Returns `None` if
    /// that is not possible now.
    pub(super) fn reload(&self, timeout: Duration) -> Option<oneshot::Receiver<Reloaded>> {
        let now = Instant::now();
        self.update(|s| {
            let (sender, receiver) = oneshot::channel();
            s.supervisor.reload(now, timeout).then(|| {
                s.reload = Some(sender);
                receiver
            })
        })
    }

    /// Stops all workers, and starts each again when it has exited. Returns whether that was possible.
    pub(super) fn restart(&self) -> bool {
        let now = Instant::now();
        self.update(|s| s.supervisor.restart(now))
    }

    /// Records that worker `id` has built its application and takes requests.
    pub(super) fn on_ready(&self, id: WorkerId) {
        let now = Instant::now();
        self.update(|s| s.supervisor.on_ready(id, now));
    }

    /// Records that worker `id` could not be started. [`on_exit`](Self::on_exit) follows.
    pub(super) fn on_failed(&self, id: WorkerId, error: BoxError) {
        let mut s = self.lock();
        if s.supervisor.startup() == Startup::Pending {
            s.startup_error.get_or_insert(error);
            return;
        }
        drop(s); // a log subscriber may call `stats`
        let error = Chain(&*error);
        let message = "cannot start a worker; it will be retried after a pause";
        tracing::error!(target: "vestibule::worker", worker = %id, %error, "{message}");
    }

    /// Records that worker `id` has exited, so that its slot is free.
    pub(super) fn on_exit(&self, id: WorkerId) {
        let now = Instant::now();
        self.leave(id);
        let unfinished = self.update(|s| {
            s.supervisor.on_exit(id, now);
            let mut unfinished = s.queue.take_ahead(id);
            unfinished.extend(s.queue.take_in_flight(id));
            unfinished
        });
        for job in unfinished {
            let cause = WorkerPanicked { message: "its worker exited".to_owned() };
            drop(job.take_permit());
            job.abort(|| Error::new(Kind::Internal, cause.clone()));
        }
    }

    /// Changes the state of workers, and wakes the threads that wait for a change.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut s = self.lock();
        let out = change(&mut s);
        let waiting = s.check_reloaded();
        self.alarm.notify_one();
        self.started.notify_all();
        drop(s);
        for (_, waker) in waiting {
            waker.wake();
        }
        out
    }

    /// Waits until all workers are ready.
    ///
    /// # Errors
    /// The error of the first one that could not be started.
    pub(super) fn wait_started(&self) -> Result<(), BoxError> {
        let is_pending = |s: &mut State| s.supervisor.startup() == Startup::Pending;
        let s = self.started.wait_while(self.lock(), is_pending);
        let mut s = s.unwrap_or_else(PoisonError::into_inner);
        match s.supervisor.startup() {
            Startup::Ready => Ok(()),
            Startup::Pending | Startup::Failed => {
                Err(s.startup_error.take().unwrap_or_else(|| "a worker exited".into()))
            }
        }
    }

    /// Counts a job that was cancelled before a worker began it, or takes it back.
    pub(super) fn on_cancelled(&self, job: &Arc<Job>, was: Cancelled) {
        let mut s = self.lock();
        s.queue.on_cancelled(job, was);
        // Others may have been taken back with it.
        let idle = s.queue.wake_next(Instant::now());
        self.check_closed(&s);
        drop(s);
        if let Some(waker) = idle {
            waker.wake();
        }
    }

    /// Closes the pool. Queued requests are still run, then the workers exit.
    pub(super) fn close(&self) {
        self.permits.close();
        let now = Instant::now();
        self.update(|s| {
            s.supervisor.close(now);
            s.queue.close();
        });
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

    /// Records that all threads have ended.
    pub(super) fn set_ended(&self) {
        self.lock().has_ended = true;
        self.ended.notify_waiters();
    }

    /// Waits until all threads have ended.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().has_ended {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let now = Instant::now();
        let mut stats = Stats::default();
        let s = self.lock();
        s.queue.add_to(&mut stats);
        stats.workers = s.supervisor.ready();
        stats.stuck = s.supervisor.stuck(now);
        stats.abandoned = s.supervisor.abandoned_total();
        stats.panics = s.panics;
        stats.recycled = s.supervisor.recycled_total();
        stats.unexpected_exits = s.supervisor.unexpected_exits();
        stats.generation = s.supervisor.generation();
        drop(s);
        stats.refused = self.refused.load(Ordering::Relaxed);
        stats
    }
}
