//! The watch: one thread that keeps the time for the whole pool, so no request arms a timer.
//!
//! It sleeps until the first queued or running request is due, and is woken earlier only if an
//! earlier one comes: as all requests have the same time, hardly ever. It answers for workers that
//! cannot, because their thread is blocked, and replaces them.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    error::RequestTimeout,
    job::Job,
    queue::{Pool, queue_timeout},
    state::{Id, Options, State},
};
use crate::error::{Error, Kind};

/// How long to wait after a thread could not be started: 1 s, since the machine is short of
/// something, and each attempt makes it worse.
const SPAWN_AGAIN: Duration = Duration::from_secs(1);

pub(super) fn run(pool: &Arc<Pool>) {
    let mut again = None;
    let mut s = pool.lock();
    loop {
        let now = Instant::now();
        let due = Due::collect(&mut s, &pool.options, now, again);
        if !due.is_empty() {
            drop(s);
            again = due.act(pool).then(|| now + SPAWN_AGAIN);
            s = pool.lock();
        } else if s.closed && s.queue.is_empty() && s.running.is_empty() {
            break;
        } else {
            s = sleep(pool, s, now, again);
        }
    }
    drop(s);
    pool.thread_ended();
}

fn sleep<'a>(
    pool: &'a Pool,
    mut s: MutexGuard<'a, State>,
    now: Instant,
    again: Option<Instant>,
) -> MutexGuard<'a, State> {
    let queued = s.queue.iter().map(|job| job.queue_until);
    let running = s.running.iter().map(|r| r.cut_at.unwrap_or(r.write_off_at).min(r.write_off_at));
    s.watch_until = queued.chain(running).chain(again).min();
    match s.watch_until {
        None => pool.watch.wait(s).unwrap_or_else(PoisonError::into_inner),
        Some(at) => {
            let wait = at.saturating_duration_since(now);
            pool.watch.wait_timeout(s, wait).unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// What is to be done now, with no lock held.
#[derive(Default)]
struct Due {
    /// Waited in the queue for too long.
    expired: Vec<Arc<Job>>,
    /// Take longer than they are allowed to.
    cut: Vec<(Arc<Job>, Duration)>,
    /// Workers that were just written off.
    written_off: Vec<Id>,
    /// Places that come back with the new workers.
    places: usize,
    /// Workers to start.
    start: Vec<Id>,
}

impl Due {
    fn collect(s: &mut State, options: &Options, now: Instant, again: Option<Instant>) -> Self {
        let mut due = Self::default();
        s.queue.retain(|job| {
            let keep = now < job.queue_until;
            if !keep {
                due.expired.push(job.clone());
            }
            keep
        });
        if !due.expired.is_empty() {
            s.count_forgotten();
        }
        due.overdue(s, now);
        // After a failed start, not before its time.
        if !s.closed && again.is_none_or(|at| now >= at) {
            due.fill(s, options);
        }
        due
    }

    /// Cuts what takes too long; writes off the workers that do not give it up by themselves.
    fn overdue(&mut self, s: &mut State, now: Instant) {
        for r in &mut s.running {
            if r.cut_at.is_some_and(|at| now >= at) {
                r.cut_at = None;
                self.cut.push((r.job.clone(), r.allowed));
            }
        }
        while let Some(at) = s.running.iter().position(|r| now >= r.write_off_at) {
            let r = s.running.swap_remove(at);
            // Its place goes to its replacement, when there is one.
            if let Some(permit) = r.job.take_permit() {
                permit.forget();
                s.owed += 1;
            }
            s.stuck.push(r.id);
            s.live -= 1;
            s.written_off += 1;
            self.written_off.push(r.id);
        }
    }

    /// Replaces workers that are missing, as far as the bound on threads allows.
    fn fill(&mut self, s: &mut State, options: &Options) {
        let most = options.workers.saturating_add(options.max_written_off);
        while s.live < options.workers && s.live + s.stuck.len() < most {
            self.start.push(s.joined());
            let places = s.owed.min(1);
            s.owed -= places;
            self.places += places;
        }
    }

    fn is_empty(&self) -> bool {
        self.expired.is_empty()
            && self.cut.is_empty()
            && self.written_off.is_empty()
            && self.start.is_empty()
    }

    /// True if a thread could not be started.
    fn act(self, pool: &Arc<Pool>) -> bool {
        for job in self.expired {
            job.refuse(queue_timeout());
        }
        for (job, allowed) in self.cut {
            job.cut(|| Error::new(Kind::Timeout, RequestTimeout(allowed)));
        }
        for worker in self.written_off {
            tracing::warn!(worker, "a worker is stuck in a request and was written off");
        }
        pool.places.add_permits(self.places);
        let mut failed = false;
        for id in self.start {
            match (pool.spawn)(pool.clone(), id, None) {
                Ok(handle) => {
                    let mut s = pool.lock();
                    s.handles.retain(|h| !h.is_finished());
                    s.handles.push(handle);
                }
                Err(cause) => {
                    failed = true;
                    pool.left(id, true);
                    let cause: &(dyn std::error::Error + 'static) = &cause;
                    tracing::error!(cause, "a worker thread could not be started");
                }
            }
        }
        failed
    }
}
