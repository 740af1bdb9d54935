//! The places of a concurrency limit, and the queue for them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Semaphore;

use super::{super::error::QueueFull, Stats};

/// What a limit's handles share. Relaxed counters: the semaphore orders what matters.
#[derive(Debug)]
pub(super) struct Places {
    /// Places are counted in it, never held by its own permits: a [`Permit`] gives them back.
    free: Semaphore,
    limit: AtomicUsize,
    waiting: AtomicUsize,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            waiting: AtomicUsize::new(0),
        }
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

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.limit().saturating_sub(self.free.available_permits())
    }

    pub(super) fn stats(&self) -> Stats {
        Stats { limit: self.limit(), in_flight: self.in_flight(), waiting: self.waiting() }
    }

    fn give_back(&self) {
        self.free.add_permits(1);
    }
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Places>);

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
