//! The life of a pool: the start of its workers, reloads, and the end.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{super::error::WorkerPanicked, Pool, State};
use crate::{
    error::{BoxError, Chain, Error, Kind},
    policy::restart::{Reloaded, Startup, WorkerId},
};

impl Pool {
    /// Begins to replace all workers by a new generation, which must be ready within `timeout` after its last worker was
    /// started. Returns `None` if that is not possible now.
    pub(in super::super) fn reload(
        &self,
        timeout: Duration,
    ) -> Option<oneshot::Receiver<Reloaded>> {
        self.update(|s| {
            let (sender, receiver) = oneshot::channel();
            s.supervisor.reload(timeout).then(|| {
                s.reload = Some(sender);
                receiver
            })
        })
    }

    /// Stops all workers, and starts each again when it has exited. Returns whether that was possible.
    pub(in super::super) fn restart(&self) -> bool {
        let now = Instant::now();
        self.update(|s| s.supervisor.restart(now))
    }

    /// Records that worker `id` has built its application and takes requests.
    pub(in super::super) fn on_ready(&self, id: WorkerId) {
        let now = Instant::now();
        self.update(|s| s.supervisor.on_ready(id, now));
    }

    /// Records that worker `id`, which starts, shares this process with other workers.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_joined(&self, id: WorkerId, process: u64) {
        self.lock().supervisor.on_joined(id, process);
    }

    /// Closes the process of worker `id`, which starts: no other worker joins it, and this one is replaced when it is ready.
    #[cfg(feature = "process")]
    pub(in super::super) fn close_process(&self, id: WorkerId) {
        self.lock().supervisor.close_process(id);
    }

    /// Records that worker `id` could not be started. [`on_exit`](Self::on_exit) follows.
    pub(in super::super) fn on_failed(&self, id: WorkerId, error: BoxError) {
        let mut s = self.lock();
        if s.supervisor.startup() == Startup::Pending {
            s.startup_error.get_or_insert(error);
            return;
        }
        drop(s); // a log subscriber may call `stats`
        let error = Chain(&*error);
        let message = "cannot start a worker";
        tracing::error!(target: "vestibule::worker", worker = %id, %error, "{message}");
    }

    /// Records that worker `id` has exited, so that its slot is free.
    pub(in super::super) fn on_exit(&self, id: WorkerId) {
        let now = Instant::now();
        self.leave(id);
        let unfinished = self.update(|s| {
            s.supervisor.on_exit(id, now);
            s.queue.exit(id);
            s.queue.take_in_flight(id)
        });
        if let Some(job) = unfinished {
            let cause = WorkerPanicked { message: "its worker exited".to_owned() };
            drop(job.take_permit());
            job.abort(|| Error::new(Kind::Internal, cause.clone()));
        }
    }

    /// Returns whether worker `id`, which has left its slot and has no request, becomes the mould instead of exiting.
    #[cfg(feature = "process")]
    pub(in super::super) fn claim_mould(&self, id: WorkerId) -> bool {
        self.lock().supervisor.claim_mould(id)
    }

    /// Records that the mould forks workers now, so that the others are replaced. Returns `false` if it is not needed.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_mould_ready(&self, id: WorkerId) -> bool {
        self.update(|s| s.supervisor.on_mould_ready(id))
    }

    /// Records that the application has state that must not be copied.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_mould_refused(&self, id: WorkerId) {
        self.lock().supervisor.on_mould_refused(id);
    }

    /// Records that a copy of the mould was not ready. Returns whether it was the mould until now.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_copy_failed(&self, generation: u64) -> bool {
        self.lock().supervisor.on_copy_failed(generation)
    }

    /// Records that the mould has ended.
    #[cfg(feature = "process")]
    pub(in super::super) fn on_mould_end(&self, id: WorkerId) {
        self.lock().supervisor.on_mould_end(id);
    }

    /// Changes the state of workers, and wakes the threads that wait for a change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
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
    pub(in super::super) fn wait_started(&self) -> Result<(), BoxError> {
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

    /// Closes the pool. Queued requests are still run, then the workers exit.
    pub(in super::super) fn close(&self) {
        self.permits.close();
        let now = Instant::now();
        self.update(|s| {
            s.supervisor.close(now);
            s.queue.close();
        });
        self.closed.notify_waiters();
    }

    /// Waits until the pool is closed.
    #[cfg(feature = "process")]
    pub(in super::super) async fn closed(&self) {
        let closed = self.closed.notified(); // before the check, so that no notification is missed
        if !self.permits.is_closed() {
            closed.await;
        }
    }

    /// Records that all threads have ended.
    pub(in super::super) fn set_ended(&self) {
        self.lock().has_ended = true;
        self.ended.notify_waiters();
    }

    /// Waits until all threads have ended.
    pub(in super::super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().has_ended {
                return;
            }
            ended.await;
        }
    }
}
