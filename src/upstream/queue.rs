//! `Queue`: requests that wait for an endpoint.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use http::Request;
use tokio::sync::Notify;

use crate::net::clock;

/// How long a request waits in the queue, unless set otherwise: as long as in a worker's queue.
pub const BALANCE_QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// How important a request is where it waits for an endpoint: an extension of the request, set by a layer of
/// your own. Without it a request is [`Normal`](Self::Normal).
///
/// ```
/// use vestibule::{Body, Request, upstream::Priority};
///
/// let mut request = Request::new(Body::empty());
/// request.extensions_mut().insert(Priority::High);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub enum Priority {
    /// Before all others.
    High,
    /// The default.
    #[default]
    Normal,
    /// After all others; in a full queue it gives way to them.
    Low,
}

impl Priority {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }
}

/// How many requests may wait for an endpoint, and for how long.
///
/// Requests of a higher [priority](Priority) come first, those of the same one in the order in which they came.
/// In a full queue a request displaces the last one of a lower priority, if there is one.
///
/// ```
/// use std::time::Duration;
/// use vestibule::upstream::QueueOptions;
///
/// let options = QueueOptions::new(1000).timeout(Duration::from_secs(2));
/// # drop(options);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct QueueOptions {
    bound: usize,
    timeout: Duration,
}

impl QueueOptions {
    /// At most so many requests, for up to [`BALANCE_QUEUE_TIMEOUT`].
    pub const fn new(bound: usize) -> Self {
        Self { bound, timeout: BALANCE_QUEUE_TIMEOUT }
    }

    /// How long a request waits. Its [`Deadline`](crate::peer::Deadline) may end that sooner. Default
    /// [`BALANCE_QUEUE_TIMEOUT`].
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// The figures of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Requests that wait now.
    pub waiting: usize,
    /// Requests that found an endpoint after they had waited.
    pub admitted: u64,
    /// Requests that found the queue full, or were displaced from it.
    pub refused: u64,
    /// Requests that waited for too long.
    pub timed_out: u64,
    /// The waits of those admitted together: divided by their number it is the mean.
    pub total_wait: Duration,
    /// The longest wait of those admitted.
    pub longest_wait: Duration,
    /// How long the oldest of those that wait has been waiting.
    pub oldest_wait: Duration,
}

/// A queue that holds places, not requests: those are in the futures that wait.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Places in the queue; read without the lock.
    len: AtomicUsize,
}

#[derive(Debug)]
struct State {
    options: QueueOptions,
    classes: [VecDeque<Arc<Place>>; 3],
    stats: QueueStats,
}

#[derive(Debug)]
struct Place {
    since: Instant,
    /// Told when the place is taken out of the queue.
    called: Notify,
    is_displaced: std::sync::atomic::AtomicBool,
}

/// A request's place in the queue; dropped, it leaves it.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a Queue,
    place: Arc<Place>,
    class: Priority,
    /// It was called and has not used that yet.
    is_called: bool,
}

/// Why a wait ended without an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// No more requests may wait, or one of a higher priority took the place.
    #[error("all endpoints are busy and the queue is full")]
    Full,
    /// No endpoint had room in time.
    #[error("no endpoint had room within {0:?}")]
    Timeout(Duration),
}

impl Queue {
    pub(super) fn new(options: QueueOptions) -> Self {
        let (classes, stats) = (Default::default(), QueueStats::default());
        Self { state: Mutex::new(State { options, classes, stats }), len: AtomicUsize::new(0) }
    }

    /// Whether requests wait.
    pub(super) fn has_waiting(&self) -> bool {
        // Sequentially consistent, as is the write: the one that frees room after a failed pick either sees the
        // place of the waiting request, or is seen by its look after it took its place.
        self.len.load(SeqCst) > 0
    }

    pub(super) fn set_options(&self, options: QueueOptions) {
        self.state().options = options;
    }

    /// Takes a place.
    pub(super) fn enter(&self, class: Priority) -> Result<(Ticket<'_>, Duration), QueueError> {
        let mut state = self.state();
        if state.options.bound <= state.len() && !state.displace(class) {
            state.stats.refused += 1;
            return Err(QueueError::Full);
        }
        let (since, timeout) = (clock::now(), state.options.timeout);
        let place = Arc::new(Place { since, called: Notify::new(), is_displaced: false.into() });
        state.classes[class as usize].push_back(place.clone());
        self.publish(&state);
        Ok((Ticket { queue: self, place, class, is_called: false }, timeout))
    }

    /// Calls the first request: there is room.
    pub(super) fn wake(&self) {
        if !self.has_waiting() {
            return;
        }
        let mut state = self.state();
        let first = state.classes.iter_mut().find_map(VecDeque::pop_front);
        self.publish(&state);
        if let Some(place) = first {
            place.called.notify_one();
        }
    }

    pub(super) fn stats(&self) -> QueueStats {
        let state = self.state();
        let oldest = state.classes.iter().filter_map(|class| class.front()).map(|p| p.since).min();
        let now = clock::now();
        let oldest_wait = oldest.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        QueueStats { waiting: state.len(), oldest_wait, ..state.stats }
    }

    fn publish(&self, state: &State) {
        self.len.store(state.len(), SeqCst);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        self.classes.iter().map(VecDeque::len).sum()
    }

    /// Removes the last request of a lower class than this. Returns whether there was one.
    fn displace(&mut self, class: Priority) -> bool {
        let mut lower = self.classes[class as usize + 1..].iter_mut().rev();
        let Some(place) = lower.find_map(VecDeque::pop_back) else { return false };
        place.is_displaced.store(true, SeqCst);
        place.called.notify_one();
        self.stats.refused += 1;
        true
    }
}

impl Ticket<'_> {
    /// Waits until it is called, which takes it out of the queue.
    pub(super) async fn called(&mut self) -> Result<(), QueueError> {
        self.place.called.notified().await;
        if self.place.is_displaced.load(SeqCst) {
            return Err(QueueError::Full);
        }
        self.is_called = true;
        Ok(())
    }

    /// Whether it is called, or the first in the queue: others must not be overtaken.
    pub(super) fn is_first(&self) -> bool {
        let state = self.queue.state();
        let first = state.classes.iter().find_map(VecDeque::front);
        self.is_called || first.is_some_and(|first| Arc::ptr_eq(first, &self.place))
    }

    /// Goes back to the front: there was no room after all.
    pub(super) fn requeue(&mut self) {
        if std::mem::take(&mut self.is_called) {
            let mut state = self.queue.state();
            state.classes[self.class as usize].push_front(self.place.clone());
            self.queue.publish(&state);
        }
    }

    /// It has found an endpoint: the next may find another.
    pub(super) fn admit(mut self) {
        self.is_called = true; // its drop calls the next
        let wait = clock::now().saturating_duration_since(self.place.since);
        let stats = &mut self.queue.state().stats;
        stats.admitted += 1;
        stats.total_wait = stats.total_wait.saturating_add(wait);
        stats.longest_wait = stats.longest_wait.max(wait);
    }

    /// It has waited for too long.
    pub(super) fn time_out(self) -> QueueError {
        let mut state = self.queue.state();
        state.stats.timed_out += 1;
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
        self.queue.publish(&state);
        drop(state);
        // A call that it did not use is another's.
        let is_displaced = self.place.is_displaced.load(SeqCst);
        if self.is_called || (!was_queued && !is_displaced) {
            self.queue.wake();
        }
    }
}
