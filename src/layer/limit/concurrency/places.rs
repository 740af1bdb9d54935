//! The places of a concurrency limit, and the queue for them.

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

/// What a limit's handles share. Relaxed counters: the semaphore orders what matters.
#[derive(Debug)]
pub(super) struct Places {
    /// Places are counted in it, never held by its own permits: a [`Permit`] gives them back.
    pub(super) free: Semaphore,
    limit: AtomicUsize,
    /// Places that are there no more but still taken: they vanish when they are given back.
    pub(super) owed: AtomicUsize,
    waiting: AtomicUsize,
    adaptive: Option<Mutex<Adaptive>>,
}

#[derive(Debug)]
struct Adaptive {
    gradient: Gradient,
    /// Since when somebody waits and none was answered.
    stalled: Option<Instant>,
}

/// A free place is capacity; a queue is not.
impl Capacity for Places {
    fn is_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    fn freed(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            drop(self.free.acquire().await); // taken for a moment only, so the next one has its turn
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

    /// A place at once, if one is free. Nobody overtakes: while somebody waits, none is.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        self.free.try_acquire().ok()?.forget();
        Some(Permit(self.clone()))
    }

    /// The end of the queue, if fewer than `len` wait.
    pub(super) fn queue(self: &Arc<Self>, len: usize) -> Result<Waiter, QueueFull> {
        let longer = |n| (n < len).then(|| n + 1);
        match self.waiting.fetch_update(Relaxed, Relaxed, longer) {
            Ok(_) => Ok(Waiter(self.clone())),
            Err(waiting) => Err(QueueFull { waiting }),
        }
    }

    /// The places that there are, without regard to a probe, which is over soon.
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

    /// How many of `n` places make up for such as are owed.
    fn pay(&self, n: usize) -> usize {
        // Nearly always it is 0, and nothing is written.
        if self.owed.load(Relaxed) == 0 {
            return 0;
        }
        let fewer = |owed: usize| Some(owed.saturating_sub(n));
        self.owed.fetch_update(Relaxed, Relaxed, fewer).map_or(0, |owed| owed.min(n))
    }
}

/// What only a limit that adapts does.
impl Places {
    /// What a request has to remember from its beginning.
    pub(super) fn begin(&self) -> Option<Begun> {
        self.adaptive.is_some().then(|| Begun { at: Instant::now(), in_flight: self.in_flight() })
    }

    /// A request was answered; it tells something about the service if it is given as it began.
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

    /// Somebody finds no place, or none in time.
    pub(super) fn stalled(&self) {
        let Some(adaptive) = &self.adaptive else { return };
        let mut adaptive = lock(adaptive);
        let since = *adaptive.stalled.get_or_insert_with(Instant::now);
        adaptive.gradient.on_stall(since.elapsed());
        let limit = adaptive.gradient.limit();
        drop(adaptive);
        self.resize(limit);
    }

    /// Not under the lock, since new places wake those who wait; two that cross add up all the same.
    pub(super) fn resize(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let had = self.limit.swap(limit, Relaxed);
        let more = limit.saturating_sub(had);
        self.free.add_permits(more - self.pay(more));
        self.owed.fetch_add(had.saturating_sub(limit), Relaxed);
        // From the free ones at once, also such as came back before they were owed.
        let pay = self.pay(self.free.available_permits());
        self.owed.fetch_add(pay - self.free.forget_permits(pay), Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, so a poisoned one is still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a request began, and how many were inside, itself included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    at: Instant,
    in_flight: usize,
}

/// One place; given back when dropped.
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

/// One who waits for a place; leaves the queue when dropped.
#[derive(Debug)]
pub(super) struct Waiter(Arc<Places>);

impl Waiter {
    /// Places come in the order of the first poll.
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
