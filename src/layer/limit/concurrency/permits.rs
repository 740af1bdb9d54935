//! The permits of a concurrency limit and its queue.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
};

use tokio::time::Instant;

use super::{super::error::QueueFull, Stats};
use crate::{
    net::Capacity,
    policy::gradient::Gradient,
    sync::{AtomicUsize, Semaphore, fence},
};

/// The permits that a limit's handles share. The counters are relaxed: the semaphore does the ordering.
#[derive(Debug)]
pub(super) struct Permits {
    /// Counts the free permits. Its own permits are forgotten at once: a [`Permit`] returns them.
    pub(super) available: Semaphore,
    limit: AtomicUsize,
    /// Permits in use above the limit: they are removed when they are released.
    pub(super) pending_removal: AtomicUsize,
    waiting: AtomicUsize,
    adaptive: Option<Mutex<Adaptive>>,
}

#[derive(Debug)]
struct Adaptive {
    gradient: Gradient,
    /// When a request first waited with no response since.
    stalled_since: Option<Instant>,
}

/// There is capacity while a permit is free. The queue does not matter.
impl Capacity for Permits {
    fn is_free(&self) -> bool {
        self.available.available_permits() > 0
    }

    fn freed(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(self.available.acquire().await); // returned at once, for the next in the queue
        })
    }
}

impl Permits {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            available: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            pending_removal: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            adaptive: None,
        }
    }

    pub(super) fn adaptive(gradient: Gradient) -> Self {
        let limit = gradient.limit();
        let adaptive = Some(Mutex::new(Adaptive { gradient, stalled_since: None }));
        Self { adaptive, ..Self::new(limit) }
    }

    /// Takes a permit if one is free. While requests wait none is free, so none is overtaken.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.available.try_acquire().ok()?.forget();
        Some(Permit(self.clone()))
    }

    /// Takes the last position in the queue, if fewer than `len` requests wait.
    pub(super) fn try_enqueue(self: &Arc<Self>, len: usize) -> Result<Waiter, QueueFull> {
        let increment = |n| (n < len).then(|| n + 1);
        match self.waiting.fetch_update(Relaxed, Relaxed, increment) {
            Ok(_) => Ok(Waiter(self.clone())),
            Err(waiting) => Err(QueueFull { waiting }),
        }
    }

    /// Returns the limit without the short probes of an adaptive one.
    pub(super) fn steady_limit(&self) -> usize {
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
        let existing = self.limit() + self.pending_removal.load(Relaxed);
        existing.saturating_sub(self.available.available_permits())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { limit: self.limit(), in_flight: self.in_flight(), waiting: self.waiting() }
    }

    fn release(&self) {
        if self.retire(1) == 0 {
            self.available.add_permits(1);
            self.settle();
        }
    }

    /// Removes free permits while removals are pending: a permit that was released as the limit fell, before
    /// the removal was recorded.
    fn settle(&self) {
        loop {
            // Either this thread sees the other's removal, or that one sees this thread's free permit.
            fence(SeqCst);
            let excess = self.retire(self.available.available_permits());
            let kept = excess - self.available.forget_permits(excess);
            if kept == 0 {
                return;
            }
            self.pending_removal.fetch_add(kept, Relaxed); // another request has taken them
        }
    }

    /// Cancels up to `n` pending permit removals; returns how many.
    fn retire(&self, n: usize) -> usize {
        // Nearly always 0, without a write to shared memory.
        if self.pending_removal.load(Relaxed) == 0 {
            return 0;
        }
        let subtract = |pending_removal: usize| Some(pending_removal.saturating_sub(n));
        self.pending_removal
            .fetch_update(Relaxed, Relaxed, subtract)
            .map_or(0, |pending_removal| pending_removal.min(n))
    }
}

/// The adaptive limit.
impl Permits {
    /// Returns the start of a request's sample; `None` for a fixed limit.
    pub(super) fn start_sample(&self) -> Option<SampleStart> {
        self.adaptive
            .is_some()
            .then(|| SampleStart { at: Instant::now(), in_flight: self.in_flight() })
    }

    /// Records that a request ended, with its sample if it tells the service's latency.
    pub(super) fn on_response(&self, sample: Option<SampleStart>) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut adaptive = lock(adaptive);
        adaptive.stalled_since = None;
        let Some(SampleStart { at, in_flight }) = sample else { return };
        adaptive.gradient.on_sample(at.elapsed(), in_flight);
        let limit = adaptive.gradient.limit();
        drop(adaptive);
        self.resize(limit);
    }

    /// Records that a request found no free permit, or none in time.
    pub(super) fn on_stall(&self) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut adaptive = lock(adaptive);
        let since = *adaptive.stalled_since.get_or_insert_with(Instant::now);
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
        self.available.add_permits(more - self.retire(more));
        self.pending_removal.fetch_add(had.saturating_sub(limit), Relaxed);
        self.settle();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, so a poisoned state is still consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a request began, and how many requests were in flight then, including itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleStart {
    at: Instant,
    in_flight: usize,
}

/// One permit; released when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Permits>);

impl Permit {
    pub(super) fn permits(&self) -> &Permits {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A position in the queue; given up when dropped.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Permits>);

impl Waiter {
    /// Waits for a permit. Permits are given in the order of the first poll.
    pub(super) async fn acquire(self) -> Permit {
        let permit = self.0.available.acquire().await.expect("it is never closed");
        permit.forget();
        Permit(self.0.clone())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod models;
