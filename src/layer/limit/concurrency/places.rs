//! The permits of a concurrency limit and its queue.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{super::error::QueueFull, Stats};
use crate::{
    net::Capacity,
    policy::gradient::Gradient,
    sync::{AtomicUsize, Semaphore},
};

/// The permits that a limit's handles share. The counters are relaxed: the semaphore does the ordering.
#[derive(Debug)]
pub(super) struct Places {
    /// Counts the free permits. Its own permits are forgotten at once: a [`Permit`] returns them.
    pub(super) free: Semaphore,
    limit: AtomicUsize,
    /// Permits in use above the limit: they are removed when they are released.
    pub(super) owed: AtomicUsize,
    waiting: AtomicUsize,
    adaptive: Option<Mutex<Adaptive>>,
}

#[derive(Debug)]
struct Adaptive {
    gradient: Gradient,
    /// When a request first waited with no response since.
    stalled: Option<Instant>,
}

/// There is capacity while a permit is free, whatever the queue.
impl Capacity for Places {
    fn is_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    fn freed(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(self.free.acquire().await); // returned at once, for the next in the queue
        })
    }
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            owed: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            adaptive: None,
        }
    }

    pub(super) fn adaptive(gradient: Gradient) -> Self {
        let limit = gradient.limit();
        let adaptive = Some(Mutex::new(Adaptive { gradient, stalled: None }));
        Self { adaptive, ..Self::new(limit) }
    }

    /// Takes a permit if one is free. While requests wait none is free, so none is overtaken.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        self.free.try_acquire().ok()?.forget();
        Some(Permit(self.clone()))
    }

    /// Takes the last position in the queue, if fewer than `len` requests wait.
    pub(super) fn queue(self: &Arc<Self>, len: usize) -> Result<Waiter, QueueFull> {
        let longer = |n| (n < len).then(|| n + 1);
        match self.waiting.fetch_update(Relaxed, Relaxed, longer) {
            Ok(_) => Ok(Waiter(self.clone())),
            Err(waiting) => Err(QueueFull { waiting }),
        }
    }

    /// Returns the limit without the short probes of an adaptive one.
    pub(super) fn settled(&self) -> usize {
        match &self.adaptive {
            Some(adaptive) => lock(adaptive).gradient.steady_limit(),
            None => self.limit(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        let there = self.limit() + self.owed.load(Relaxed);
        there.saturating_sub(self.free.available_permits())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { limit: self.limit(), in_flight: self.in_flight(), waiting: self.waiting() }
    }

    fn give_back(&self) {
        if self.pay(1) == 0 {
            self.free.add_permits(1);
        }
    }

    /// Cancels up to `n` pending permit removals; returns how many.
    fn pay(&self, n: usize) -> usize {
        // Nearly always 0, without a write to shared memory.
        if self.owed.load(Relaxed) == 0 {
            return 0;
        }
        let subtract = |owed: usize| Some(owed.saturating_sub(n));
        self.owed.fetch_update(Relaxed, Relaxed, subtract).map_or(0, |owed| owed.min(n))
    }
}

/// The adaptive limit.
impl Places {
    /// Returns the start of a request's sample; `None` for a fixed limit.
    pub(super) fn begin(&self) -> Option<Begun> {
        self.adaptive.is_some().then(|| Begun { at: Instant::now(), in_flight: self.in_flight() })
    }

    /// Records that a request ended, with its sample if it tells the service's latency.
    pub(super) fn answered(&self, begun: Option<Begun>) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut adaptive = lock(adaptive);
        adaptive.stalled = None;
        let Some(Begun { at, in_flight }) = begun else { return };
        adaptive.gradient.on_sample(at.elapsed(), in_flight);
        let limit = adaptive.gradient.limit();
        drop(adaptive);
        self.resize(limit);
    }

    /// Records that a request found no free permit, or none in time.
    pub(super) fn stalled(&self) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut adaptive = lock(adaptive);
        let since = *adaptive.stalled.get_or_insert_with(Instant::now);
        adaptive.gradient.on_stall(since.elapsed());
        let limit = adaptive.gradient.limit();
        drop(adaptive);
        self.resize(limit);
    }

    /// Changes the limit. Called without the lock, since new permits wake waiting tasks; concurrent calls add
    /// up.
    pub(super) fn resize(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let had = self.limit.swap(limit, Relaxed);
        let more = limit.saturating_sub(had);
        self.free.add_permits(more - self.pay(more));
        self.owed.fetch_add(had.saturating_sub(limit), Relaxed);
        // Removes free permits at once, also those that were released before the removal was recorded.
        let pay = self.pay(self.free.available_permits());
        self.owed.fetch_add(pay - self.free.forget_permits(pay), Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, so a poisoned state is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a request began, and how many requests were in flight then, including itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    at: Instant,
    in_flight: usize,
}

/// One permit; released when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Places>);

impl Permit {
    pub(super) fn places(&self) -> &Places {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// A position in the queue; given up when dropped.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Places>);

impl Waiter {
    /// Waits for a permit. Permits are given in the order of the first poll.
    pub(super) async fn place(self) -> Permit {
        let place = self.0.free.acquire().await.expect("it is never closed");
        place.forget();
        Permit(self.0.clone())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(all(test, vestibule_loom))]
mod models;
