//! The supervisor's thread, which executes the decisions of [`Supervisor`](crate::policy::restart::Supervisor).
//!
//! It handles all deadlines of the pool, so that no request needs a timer: it sleeps until the first queued request
//! expires or the first running one is due, and is woken when a worker changes its state or a request is due earlier.

use std::{
    io,
    sync::{Arc, MutexGuard},
    task::Waker,
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{
    error::{DrainTimeout, RequestTimeout},
    executor::Executor,
    pool::{Pool, State},
    queue::{closed, failed},
};
use crate::{
    conn::{RequestInfo, log_request},
    error::{Error, Kind},
    policy::restart::{Action, WorkerId},
};

/// Starts the workers and waits until all are ready. If one fails, all have exited on return.
///
/// # Errors
/// [`Kind::Internal`] with the error of the first worker that failed, or with an [`io::Error`] if a thread cannot be
/// started.
pub(super) fn start(pool: &Arc<Pool>, executor: impl Executor) -> Result<JoinHandle<()>, Error> {
    let shared = pool.clone();
    let supervisor = thread::Builder::new().name("supervisor".to_owned());
    let supervisor = supervisor.spawn(move || run(&shared, executor)).map_err(|e| {
        let context = format!("cannot start the thread of the supervisor: {e}");
        Error::new(Kind::Internal, io::Error::new(e.kind(), context))
    })?;
    if let Err(cause) = pool.wait_started() {
        pool.close();
        let _ = supervisor.join(); // its panic was reported when it happened
        return Err(Error::new(Kind::Internal, cause));
    }
    Ok(supervisor)
}

fn run(pool: &Arc<Pool>, mut executor: impl Executor) {
    let mut s = pool.lock();
    loop {
        let now = Instant::now();
        let unneeded = s.check_drained();
        if !unneeded.is_empty() {
            s = wake_all(pool, s, unneeded);
            continue;
        }
        if let Some(waker) = s.queue.wake_next(now) {
            drop(s);
            waker.wake();
            s = pool.lock();
            continue;
        }
        s.update_demand();
        let idle = s.supervisor.idle();
        let expired = s.queue.take_expired(now, idle);
        if !expired.is_empty() {
            drop(s);
            for job in expired {
                pool.refuse(&job, job.expiry());
            }
            s = pool.lock();
        } else if s.supervisor.has_failed() && s.queue.has_jobs() {
            drop(s);
            pool.refuse_all(failed);
            s = pool.lock();
        } else if let Some(action) = s.supervisor.poll(now) {
            perform(pool, &mut executor, s, action);
            s = pool.lock();
        } else if s.supervisor.is_ended() {
            break;
        } else if s.take_has_reloaded() {
            drop(s);
            executor.on_reloaded();
            s = pool.lock();
        } else {
            let waiting = s.check_reloaded();
            s = if waiting.is_empty() { pool.sleep(s) } else { wake_all(pool, s, waiting) };
        }
    }
    drop(s);
    pool.refuse_all(closed); // only a failed start leaves requests
    drop(executor);
    pool.set_ended();
}

/// Wakes workers, without the lock.
fn wake_all<'a>(
    pool: &'a Pool,
    s: MutexGuard<'a, State>,
    workers: Vec<(WorkerId, Waker)>,
) -> MutexGuard<'a, State> {
    drop(s);
    for (_, waker) in workers {
        waker.wake();
    }
    pool.lock()
}

fn perform(
    pool: &Pool,
    executor: &mut impl Executor,
    mut s: MutexGuard<'_, State>,
    action: Action,
) {
    match action {
        Action::Start(id) => {
            drop(s);
            start_worker(pool, executor, id);
        }
        Action::Abort(id) => {
            let in_flight = s.queue.in_flight(id);
            drop(s);
            if let Some((job, allowance)) = in_flight {
                // Earlier than it may take: the worker was replaced.
                let is_draining = Instant::now() < allowance.until;
                // After the deadline of a request its worker may continue, up to the request timeout.
                if is_draining || job.deadline() != Some(allowance.until) {
                    job.set_overdue();
                }
                job.abort(|| match is_draining {
                    true => Error::new(Kind::Timeout, DrainTimeout),
                    false => Error::new(Kind::Timeout, RequestTimeout(allowance.total)),
                });
            }
            executor.abort(id);
        }
        Action::Abandon(id) => {
            let job = s.queue.abandon(id);
            drop(s);
            // Its replacement takes the next request, so the permit is free again.
            drop(job.as_ref().and_then(|job| job.take_permit()));
            let request = job.map_or_else(RequestInfo::default, |job| job.request().clone());
            let message = "a worker is stuck in a request and was abandoned";
            log_request!(warn, "vestibule::worker", &request, worker = %id, "{message}");
            executor.abandon(id);
        }
        Action::Stop(id) => {
            let waker = s.take_waker(id);
            drop(s);
            if let Some(waker) = waker {
                waker.wake();
            }
            executor.stop(id);
        }
        Action::TimeOut(id) => {
            drop(s);
            executor.time_out(id);
        }
    }
}

fn start_worker(pool: &Pool, executor: &mut impl Executor, id: WorkerId) {
    if let Err(error) = executor.start(id) {
        pool.on_failed(id, error.into());
        pool.on_exit(id);
    }
}
