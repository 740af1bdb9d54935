//! `Capacity`: limits the connections to one server, and the requests that wait for one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::clock;

/// No connection was available, since all are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolExhausted {
    /// The maximum number of requests wait already.
    #[error("the queue for a connection is full ({0} requests)")]
    QueueFull(usize),
    /// No connection became free in time.
    #[error("no connection was free within {0:?}")]
    Timeout(Duration),
}

/// The number of connections to one server, in all runtimes.
///
/// A request holds a permit while it uses or opens a connection. Idle connections hold none. So whenever `max` are
/// open and a permit is free, at least one is idle and can be closed.
#[derive(Debug)]
pub(super) struct Capacity {
    max: usize,
    permits: Arc<Semaphore>,
    /// Connections that are open or being opened.
    open: AtomicUsize,
    waiting: AtomicUsize,
    max_waiting: usize,
    timeout: Duration,
}

/// The permit to use one connection, and the count of its open connection once it has one.
#[derive(Debug)]
pub(super) struct Slot {
    // Field order: the connection is counted as closed before the permit is released.
    pub(super) open: Option<Open>,
    _permit: OwnedSemaphorePermit,
    capacity: Arc<Capacity>,
}

impl Slot {
    /// Counts one more open connection. `close_idle` closes an idle one if there is any.
    pub(super) fn open_one(&self, close_idle: impl Fn() -> bool) -> Open {
        self.capacity.open(close_idle)
    }
}

/// Counts an open connection until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Arc<Capacity>);

impl Capacity {
    pub(super) fn new(max: usize, max_waiting: usize, timeout: Duration) -> Arc<Self> {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            max,
            permits: Arc::new(Semaphore::new(max)),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            max_waiting,
            timeout,
        })
    }

    /// Returns a slot if one is free and no request waits for it.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        let permit = self.permits.clone().try_acquire_owned().ok()?;
        Some(self.slot(permit))
    }

    /// Waits for a slot, in the order of arrival, until the timeout or `deadline`. Returns `None` if `deadline`
    /// passes first.
    pub(super) async fn acquire(
        self: Arc<Self>,
        deadline: Option<Instant>,
    ) -> Result<Option<Slot>, PoolExhausted> {
        let _waiting = Waiting::begin(&self)?;
        let left = deadline.map(|d| d.saturating_duration_since(clock::now()));
        let allowed = left.map_or(self.timeout, |left| left.min(self.timeout));
        let permit = self.permits.clone().acquire_owned();
        match tokio::time::timeout(allowed, permit).await {
            Ok(permit) => {
                let permit = permit.expect("the semaphore is never closed");
                Ok(Some(self.slot(permit)))
            }
            Err(_) if left.is_some_and(|left| left <= self.timeout) => Ok(None),
            Err(_) => Err(PoolExhausted::Timeout(self.timeout)),
        }
    }

    fn slot(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Slot {
        Slot { open: None, _permit: permit, capacity: self.clone() }
    }

    /// Counts one more open connection. While there are `max`, it calls `close_idle`. The caller has a slot, so one
    /// is idle, or is being closed by another thread.
    fn open(self: &Arc<Self>, close_idle: impl Fn() -> bool) -> Open {
        let count = |open| (open < self.max).then_some(open + 1);
        while self.open.fetch_update(SeqCst, SeqCst, count).is_err() {
            if !close_idle() {
                std::thread::yield_now();
            }
        }
        Open(self.clone())
    }

    /// Returns the number of waiting requests.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

/// Counts a waiting request until it is dropped.
struct Waiting<'a>(&'a Capacity);

impl<'a> Waiting<'a> {
    fn begin(capacity: &'a Capacity) -> Result<Self, PoolExhausted> {
        let max = capacity.max_waiting;
        let count = |waiting| (waiting < max).then_some(waiting + 1);
        match capacity.waiting.fetch_update(SeqCst, SeqCst, count) {
            Ok(_) => Ok(Self(capacity)),
            Err(_) => Err(PoolExhausted::QueueFull(max)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}
