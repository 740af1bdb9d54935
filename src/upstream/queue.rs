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
    classes: [VecDeque<Arc<Entry>>; 3],
    stats: QueueStats,
}

#[derive(Debug)]
/// A waiting request.
struct Entry {
    since: Instant,
    /// Notified when the entry is removed from the queue.
    called: Notify,
    is_displaced: std::sync::atomic::AtomicBool,
}

/// The entry of a request in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    place: Arc<Entry>,
    class: Priority,
    /// Whether it was called, and has not yet used or passed on the call.
    is_called: bool,
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
        Self { state: Mutex::new(State { options, classes, stats }), len: AtomicUsize::new(0) }
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
        let place = Arc::new(Entry { since, called: Notify::new(), is_displaced: false.into() });
        state.classes[class as usize].push_back(place.clone());
        self.publish(&mut state);
        Ok((Ticket { queue: self, place, class, is_called: false }, timeout))
    }

    /// Calls the first request, since there is capacity.
    pub(super) fn wake(&self) {
        if !self.has_waiting() {
            return;
        }
        let mut state = self.state();
        let first = state.classes.iter_mut().find_map(VecDeque::pop_front);
        self.publish(&mut state);
        if let Some(place) = first {
            place.called.notify_one();
        }
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = self.state();
        let oldest = state.classes.iter().filter_map(|class| class.front()).map(|p| p.since).min();
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

    /// Removes the last request of a lower priority. Returns whether there was one.
    fn displace(&mut self, class: Priority) -> bool {
        let mut lower = CLASSES.into_iter().skip(class as usize + 1).rev();
        let last = |class| Some((class, self.classes[class as usize].pop_back()?));
        let Some((lower, place)) = lower.find_map(last) else { return false };
        place.is_displaced.store(true, SeqCst);
        place.called.notify_one();
        self.count_refused(lower);
        true
    }

    fn count_refused(&mut self, class: Priority) {
        self.stats.refused += 1;
        self.stats.by_priority[class as usize].refused += 1;
        gauges::count_refused(class);
    }
}

impl Ticket<'_> {
    /// Waits until it is called, which removes it from the queue.
    pub(super) async fn called(&mut self) -> Result<(), QueueError> {
        self.place.called.notified().await;
        if self.place.is_displaced.load(SeqCst) {
            return Err(QueueError::Full);
        }
        self.is_called = true;
        Ok(())
    }

    /// Returns whether it was called or is the first in the queue, so that it overtakes no other.
    pub(super) fn is_first(&self) -> bool {
        let state = self.queue.state();
        let first = state.classes.iter().find_map(VecDeque::front);
        self.is_called || first.is_some_and(|first| Arc::ptr_eq(first, &self.place))
    }

    /// Returns to the front of the queue, since the pick failed.
    pub(super) fn requeue(&mut self) {
        if std::mem::take(&mut self.is_called) {
            let mut state = self.queue.state();
            state.classes[self.class as usize].push_front(self.place.clone());
            self.queue.publish(&mut state);
        }
    }

    /// Leaves the queue with an endpoint. The next request is called, since there may be another endpoint.
    pub(super) fn admit(mut self) {
        self.is_called = true; // its drop calls the next
        let wait = clock::now().saturating_duration_since(self.place.since);
        let stats = &mut self.queue.state().stats;
        gauges::count_admitted(self.class, wait);
        stats.by_priority[self.class as usize].admitted += 1;
        stats.admitted += 1;
        stats.total_wait = stats.total_wait.saturating_add(wait);
        stats.longest_wait = stats.longest_wait.max(wait);
    }

    /// Leaves the queue after the timeout.
    pub(super) fn time_out(self) -> QueueError {
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
        let class = &mut state.classes[self.class as usize];
        let before = class.len();
        class.retain(|place| !Arc::ptr_eq(place, &self.place));
        let was_queued = class.len() < before;
        self.queue.publish(&mut state);
        drop(state);
        // An unused call is passed to the next request.
        let is_displaced = self.place.is_displaced.load(SeqCst);
        if self.is_called || (!was_queued && !is_displaced) {
            self.queue.wake();
        }
    }
}
