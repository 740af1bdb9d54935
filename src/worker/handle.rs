//! `PoolHandle`: the common part of the handles of pools.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    error::{ReloadFailed, StillRunning},
    future::ResponseFuture,
    pool::Pool,
    queue::{
        closed,
        job::{Job, Times},
        reservation::Reservation,
    },
    stats::Stats,
};
use crate::{
    Request,
    error::{Error, Kind},
    net::Gate,
    peer::Deadline,
    policy::restart::{Reloaded, WorkerId, after},
};

/// A shared owner of a pool, and the permit for the next request.
pub(super) struct PoolHandle {
    owner: Arc<Owner>,
    reservation: Reservation,
}

/// Shared by all handles. Closes the pool when the last one is dropped.
struct Owner {
    pool: Arc<Pool>,
    /// The supervisor's thread; `None` after it was joined.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl PoolHandle {
    pub(super) fn new(pool: Arc<Pool>, supervisor: JoinHandle<()>) -> Self {
        let owner = Owner { pool, supervisor: Mutex::new(Some(supervisor)) };
        Self { owner: Arc::new(owner), reservation: Reservation::None }
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.owner.pool
    }

    pub(super) fn stats(&self) -> Stats {
        self.owner.pool.stats()
    }

    pub(super) fn gate(&self) -> Gate {
        let pool = &self.owner.pool;
        Gate::new(pool.permits.clone()).total(pool.admitted)
    }

    pub(super) fn close(&self) {
        self.owner.pool.close();
    }

    pub(super) async fn shutdown(&self, within: Duration) -> Result<(), Error> {
        let pool = &self.owner.pool;
        pool.close();
        if tokio::time::timeout(within, pool.ended()).await.is_ok() {
            let supervisor =
                self.owner.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
            let _ = supervisor.map(JoinHandle::join); // it has ended, so this does not block
            return Ok(());
        }
        pool.refuse_all(closed);
        let workers = pool.lock().supervisor.alive();
        Err(Error::new(Kind::Timeout, StillRunning { workers }))
    }

    /// Replaces all workers by a new generation, which must be ready within `timeout`.
    ///
    /// # Errors
    /// [`Kind::Internal`] with [`ReloadFailed`].
    pub(super) async fn reload(&self, timeout: Duration) -> Result<(), Error> {
        let ended = match self.owner.pool.reload(timeout) {
            Some(ended) => ended.await.unwrap_or(Reloaded::Closed),
            None => Reloaded::Closed,
        };
        let failed = match ended {
            Reloaded::Ready => return Ok(()),
            Reloaded::Exited => ReloadFailed::Exited,
            Reloaded::TimedOut => ReloadFailed::TimedOut,
            Reloaded::Closed => ReloadFailed::Refused,
        };
        Err(Error::new(Kind::Internal, failed))
    }

    pub(super) fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let pool = &self.owner.pool;
        self.reservation.poll(&pool.permits, pool.queue_timeout, cx)
    }

    pub(super) fn submit(&mut self, request: Request) -> ResponseFuture {
        self.submit_near(request, |_| false)
    }

    /// Queues a request like [`submit`](Self::submit), preferably for an idle worker that `is_near`: in this runtime.
    pub(super) fn submit_near(
        &mut self,
        request: Request,
        is_near: impl Fn(WorkerId) -> bool,
    ) -> ResponseFuture {
        let pool = &self.owner.pool;
        let permit = match self.reservation.take(&pool.permits, pool.queue_timeout) {
            Ok(permit) => permit,
            Err(error) => {
                pool.count_refused();
                return ResponseFuture::refused(error);
            }
        };
        let queued_at = Instant::now();
        let queue_until = after(queued_at, permit.remaining);
        let deadline = request.extensions().get::<Deadline>().map(|d| d.0);
        let job = Job::new(request, permit.permit, Times { queued_at, queue_until, deadline });
        pool.push(&job, is_near);
        ResponseFuture::waiting(job, pool.clone())
    }
}

impl Clone for PoolHandle {
    fn clone(&self) -> Self {
        Self { owner: self.owner.clone(), reservation: Reservation::None }
    }
}

impl fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
