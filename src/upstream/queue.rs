//! `Queue`: requests that wait for an endpoint.

#[cfg_attr(not(feature = "metrics"), path = "queue/no_gauges.rs")]
mod gauges;
mod options;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::net::clock;

pub use options::{BALANCE_QUEUE_TIMEOUT, Priority, QueueOptions};
pub use stats::{PriorityStats, QueueStats};

/// All priorities, in the order of their numbers.
const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

/// Time after which the others no longer wait for a request that was called: 100 ms.
const CALL_TIMEOUT: Duration = Duration::from_millis(100);

/// A queue of entries. The requests themselves are in the waiting futures.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// The number of entries, read without the lock.
    len: AtomicUsize,
}

#[derive(Debug)]
struct State {
    options: QueueOptions,
    classes: [VecDeque<Queued>; 3],
    /// Whether there was capacity when all waiting requests had been called, so that one that has just failed to get
    /// an endpoint may get one now.
    has_missed_call: bool,
    stats: QueueStats,
}

/// A place in the queue.
#[derive(Debug)]
struct Queued {
    entry: Arc<Entry>,
    /// When its request was called. It stays in the queue until the request has an endpoint, so that no other
    /// overtakes it.
    called_at: Option<Instant>,
}

/// A waiting request.
#[derive(Debug)]
struct Entry {
    since: Instant,
    /// Notified when the request is called or displaced.
    called: Notify,
    is_displaced: std::sync::atomic::AtomicBool,
}

/// The entry of a request in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    entry: Arc<Entry>,
    class: Priority,
    /// Whether it has taken a call, and has not yet used or returned it.
    is_called: bool,
    /// Whether the end of its wait is in the figures.
    is_counted: bool,
}

/// The reason why a request got no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue is full, or a request of a higher priority took its entry.
    #[error("all endpoints are busy and the queue is full")]
    Full,
    /// No endpoint was available within the timeout.
    #[error("no endpoint was available within {0:?}")]
    Timeout(Duration),
}

impl Queue {
    pub(super) fn new(options: QueueOptions) -> Self {
        let (classes, stats) = (Default::default(), QueueStats::default());
        let state = State { options, classes, has_missed_call: false, stats };
        Self { state: Mutex::new(state), len: AtomicUsize::new(0) }
    }

    /// Returns whether requests wait.
    pub(super) fn has_waiting(&self) -> bool {
        // Sequentially consistent, like the write: a thread that frees capacity after a failed pick either sees the
        // entry of the waiting request, or its change is seen by the pick that follows the entry.
        self.len.load(SeqCst) > 0
    }

    pub(super) fn set_options(&self, options: QueueOptions) {
        self.state().options = options;
    }

    /// Adds an entry.
    pub(super) fn enter(&self, class: Priority) -> Result<(Ticket<'_>, Duration), QueueError> {
        let mut state = self.state();
        if state.options.bound <= state.len() && !state.displace(class) {
            state.count_refused(class);
            return Err(QueueError::Full);
        }
        let (since, timeout) = (clock::now(), state.options.timeout);
        let entry = Arc::new(Entry { since, called: Notify::new(), is_displaced: false.into() });
        let queued = Queued { entry: entry.clone(), called_at: None };
        state.classes[class as usize].push_back(queued);
        self.publish(&mut state);
        let ticket = Ticket { queue: self, entry, class, is_called: false, is_counted: false };
        Ok((ticket, timeout))
    }

    /// Calls the first request that was not called yet, since there is capacity.
    pub(super) fn wake(&self) {
        if !self.has_waiting() {
            return;
        }
        let mut state = self.state();
        match state.classes.iter_mut().flatten().find(|queued| queued.called_at.is_none()) {
            Some(first) => {
                first.called_at = Some(clock::now());
                first.entry.called.notify_one();
            }
            None => state.has_missed_call = true,
        }
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = self.state();
        let oldest = state.classes.iter().filter_map(|class| class.front());
        let oldest = oldest.map(|first| first.entry.since).min();
        let now = clock::now();
        let oldest_wait = oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let (waiting, QueueOptions { bound, timeout }) = (state.len(), state.options);
        QueueStats { waiting, bound, timeout, oldest_wait, ..state.stats }
    }

    fn publish(&self, state: &mut State) {
        for (class, queue) in CLASSES.into_iter().zip(&state.classes) {
            let waiting = &mut state.stats.by_priority[class as usize].waiting;
            if *waiting != queue.len() {
                gauges::change_waiting(class, *waiting, queue.len());
                *waiting = queue.len();
            }
        }
        self.len.store(state.len(), SeqCst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    /// Removes the last request of a lower priority that was not called. Returns whether there was one.
    fn displace(&mut self, class: Priority) -> bool {
        let mut lower = CLASSES.into_iter().skip(class as usize + 1).rev();
        let last = |class| {
            let queue = &mut self.classes[class as usize];
            let at = queue.iter().rposition(|queued| queued.called_at.is_none())?;
            Some((class, queue.remove(at)?.entry))
        };
        let Some((lower, entry)) = lower.find_map(last) else { return false };
        entry.is_displaced.store(true, SeqCst);
        entry.called.notify_one();
        self.count_refused(lower);
        true
    }

    /// Returns the position of an entry in the queue of its class.
    fn position(&self, class: Priority, entry: &Arc<Entry>) -> Option<usize> {
        self.classes[class as usize].iter().position(|queued| Arc::ptr_eq(&queued.entry, entry))
    }

    fn count_refused(&mut self, class: Priority) {
        self.stats.refused += 1;
        self.stats.by_priority[class as usize].refused += 1;
        gauges::count_refused(class);
    }

    fn count_abandoned(&mut self, class: Priority) {
        self.stats.abandoned += 1;
        self.stats.by_priority[class as usize].abandoned += 1;
        gauges::count_abandoned(class);
    }
}

impl Ticket<'_> {
    /// Waits until it is called. It stays in the queue.
    pub(super) async fn called(&mut self) -> Result<(), QueueError> {
        self.entry.called.notified().await;
        if self.entry.is_displaced.load(SeqCst) {
            return Err(QueueError::Full);
        }
        self.is_called = true;
        Ok(())
    }

    /// Returns whether it was called or is the first in the queue, so that it overtakes no other.
    pub(super) fn is_first(&self) -> bool {
        let (state, now) = (self.queue.state(), clock::now());
        // The task of a request that was called may be stalled. It does not hold up the others.
        let is_stalled = |at: Instant| now.saturating_duration_since(at) >= CALL_TIMEOUT;
        let mut queued = state.classes.iter().flatten();
        let first = queued.find(|queued| !queued.called_at.is_some_and(is_stalled));
        self.is_called || first.is_some_and(|first| Arc::ptr_eq(&first.entry, &self.entry))
    }

    /// Returns its call, since the pick failed. It keeps its place.
    pub(super) fn requeue(&mut self) {
        if std::mem::take(&mut self.is_called) {
            let mut state = self.queue.state();
            if let Some(at) = state.position(self.class, &self.entry) {
                if std::mem::take(&mut state.has_missed_call) {
                    self.entry.called.notify_one();
                } else {
                    state.classes[self.class as usize][at].called_at = None;
                }
            }
        }
    }

    /// Leaves the queue with an endpoint. The next request is called, since there may be another endpoint.
    pub(super) fn admit(mut self) {
        self.is_called = true; // its drop calls the next
        self.is_counted = true;
        let wait = clock::now().saturating_duration_since(self.entry.since);
        let stats = &mut self.queue.state().stats;
        gauges::count_admitted(self.class, wait);
        stats.by_priority[self.class as usize].admitted += 1;
        stats.admitted += 1;
        stats.total_wait = stats.total_wait.saturating_add(wait);
        stats.longest_wait = stats.longest_wait.max(wait);
    }

    /// Leaves the queue without an endpoint, and without a wait for one. The next request is called, since it may get one
    /// or leave, too.
    pub(super) fn leave(mut self) {
        self.is_called = true; // its drop calls the next
    }

    /// Leaves the queue after the timeout.
    pub(super) fn time_out(mut self) -> QueueError {
        self.is_counted = true;
        let mut state = self.queue.state();
        state.stats.timed_out += 1;
        state.stats.by_priority[self.class as usize].timed_out += 1;
        gauges::count_timed_out(self.class);
        QueueError::Timeout(state.options.timeout)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        let at = state.position(self.class, &self.entry);
        let removed = at.and_then(|at| state.classes[self.class as usize].remove(at));
        // A displaced request is not in the queue any more, and counts as refused.
        if removed.is_some() && !self.is_counted {
            state.count_abandoned(self.class);
        }
        self.queue.publish(&mut state);
        drop(state);
        // An unused call is passed to the next request.
        if self.is_called || removed.is_some_and(|removed| removed.called_at.is_some()) {
            self.queue.wake();
        }
    }
}
