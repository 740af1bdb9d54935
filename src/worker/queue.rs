//! The pool: one bounded queue that idle workers pull from, and who is doing what.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore};

use super::{
    error::{Closed, FactoryPanicked, QueueTimeout, WorkerPanicked},
    job::Job,
    state::{Id, Options, Running, State, Stats},
};
use crate::{
    Request,
    error::{Error, Kind},
};

/// Where a thread tells, once, whether its application was built.
pub(super) type Started = mpsc::Sender<Result<(), FactoryPanicked>>;

/// Starts a worker thread.
pub(super) type Spawn =
    dyn Fn(Arc<Pool>, Id, Option<Started>) -> io::Result<JoinHandle<()>> + Send + Sync;

/// What all handles, workers and the watch share.
///
/// Locks are taken in the order pool, then job; wakers are woken with neither held.
pub(super) struct Pool {
    pub(super) options: Options,
    /// A place for each request that waits or is worked on.
    pub(super) places: Arc<Semaphore>,
    state: Mutex<State>,
    /// Wakes the watch: something is due earlier than it thinks, or it may have to end.
    pub(super) watch: Condvar,
    /// Wakes workers that wait before they build their application again.
    pause: Condvar,
    /// Told when the last thread ends.
    ended: Notify,
    pub(super) spawn: Box<Spawn>,
}

/// What a worker is given to do.
pub(super) struct Work {
    pub(super) job: Arc<Job>,
    pub(super) request: Request,
    pub(super) until: Instant,
    /// How long that is.
    pub(super) allowed: Duration,
}

/// How long past a request's time its worker has to give it up by itself. An application that
/// awaits does so at once; 50 ms covers a thread that the machine schedules late.
pub(super) const GRACE: Duration = Duration::from_millis(50);

/// A moment so far away that it never comes; for durations too long to add.
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

impl Pool {
    pub(super) fn new(options: Options, spawn: Box<Spawn>) -> Arc<Self> {
        let places = (options.workers + options.queue).min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            options,
            places: Arc::new(Semaphore::new(places)),
            state: Mutex::default(),
            watch: Condvar::new(),
            pause: Condvar::new(),
            ended: Notify::new(),
            spawn,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so a poisoned one is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job and wakes one idle worker.
    pub(super) fn push(&self, job: &Arc<Job>) {
        let mut s = self.lock();
        if s.closed {
            drop(s);
            return job.refuse(closed());
        }
        s.queue.push_back(job.clone());
        self.due(&mut s, job.queue_until);
        let worker = s.idle.pop();
        drop(s);
        if let Some((_, waker)) = worker {
            waker.wake();
        }
    }

    /// Sees to it that the watch wakes no later than `at`.
    fn due(&self, s: &mut State, at: Instant) {
        if s.watch_until.is_none_or(|until| at < until) {
            s.watch_until = Some(at);
            self.watch.notify_one();
        }
    }

    /// The next request for worker `id`; `None` when there will be no more.
    pub(super) async fn next(&self, id: Id) -> Option<Work> {
        poll_fn(|cx| self.poll_next(id, cx)).await
    }

    fn poll_next(&self, id: Id, cx: &Context<'_>) -> Poll<Option<Work>> {
        let now = Instant::now();
        let mut s = self.lock();
        while let Some(job) = s.queue.pop_front() {
            if now >= job.queue_until {
                drop(s);
                job.refuse(queue_timeout());
                s = self.lock();
                continue;
            }
            let Some(request) = job.begin() else {
                s.forgotten = s.forgotten.saturating_sub(1);
                continue;
            };
            let last = after(now, self.options.request_timeout);
            let until = job.deadline.map_or(last, |d| d.min(last));
            let allowed = until.saturating_duration_since(now);
            s.running.push(Running {
                id,
                job: job.clone(),
                allowed,
                cut_at: Some(until),
                write_off_at: last + GRACE,
            });
            self.due(&mut s, until);
            s.idle.retain(|(i, _)| *i != id);
            return Poll::Ready(Some(Work { job, request, until, allowed }));
        }
        s.forgotten = 0;
        if s.closed {
            self.watch.notify_one();
            return Poll::Ready(None);
        }
        match s.idle.iter_mut().find(|(i, _)| *i == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => s.idle.push((id, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Worker `id` is done with its request. False if it was written off and its place is taken:
    /// it has to end.
    pub(super) fn done(&self, id: Id, panicked: bool) -> bool {
        let mut s = self.lock();
        s.served += 1;
        s.panics += u64::from(panicked);
        if let Some(at) = s.running.iter().position(|r| r.id == id) {
            s.running.swap_remove(at);
            if s.closed {
                self.watch.notify_one();
            }
            return true;
        }
        // The watch has taken this worker for stuck.
        s.stuck.retain(|i| *i != id);
        if s.live >= self.options.workers {
            return false;
        }
        s.live += 1;
        let places = s.owed.min(1);
        s.owed -= places;
        drop(s);
        self.places.add_permits(places);
        true
    }

    /// A queued job was left by its caller.
    pub(super) fn forget_one(&self) {
        let mut s = self.lock();
        s.forgotten += 1;
        if s.forgotten * 2 > s.queue.len() {
            s.queue.retain(|job| job.is_queued());
            s.forgotten = 0;
        }
    }

    /// Waits before another attempt to build; false if the pool closes meanwhile.
    pub(super) fn pause(&self, wait: Duration) -> bool {
        let s = self.lock();
        let (s, _) = self
            .pause
            .wait_timeout_while(s, wait, |s| !s.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !s.closed
    }

    /// The thread of worker `id` ends, for whatever reason; `live` if its place is now free.
    pub(super) fn left(&self, id: Id, live: bool) {
        let mut s = self.lock();
        let at = s.running.iter().position(|r| r.id == id);
        let unfinished = at.map(|at| s.running.swap_remove(at));
        s.stuck.retain(|i| *i != id);
        s.live -= usize::from(live);
        drop(s);
        if let Some(r) = unfinished {
            let message = "its thread ended".to_owned();
            r.job.refuse(Error::new(Kind::Internal, WorkerPanicked { message }));
        }
        self.thread_ended();
    }

    pub(super) fn thread_ended(&self) {
        let mut s = self.lock();
        s.threads -= 1;
        let last = s.threads == 0;
        self.watch.notify_one();
        drop(s);
        if last {
            self.ended.notify_waiters();
        }
    }

    /// No more work is taken; what is queued is still done, then the threads end.
    pub(super) fn close(&self) {
        self.places.close();
        let mut s = self.lock();
        s.closed = true;
        let idle = std::mem::take(&mut s.idle);
        self.watch.notify_one();
        self.pause.notify_all();
        drop(s);
        for (_, waker) in idle {
            waker.wake();
        }
    }

    /// Answers all that is queued: it will not be run.
    pub(super) fn refuse_queued(&self) {
        let queued = std::mem::take(&mut self.lock().queue);
        for job in queued {
            job.refuse(closed());
        }
    }

    /// Waits until the last thread has ended.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().threads == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        self.lock().stats()
    }
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Overloaded, Closed)
}

pub(super) fn queue_timeout() -> Error {
    Error::new(Kind::Overloaded, QueueTimeout)
}
