//! `Drain`: graceful shutdown of many connections.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Waker},
};

use tokio::sync::{Notify, Semaphore};

use crate::sync::{AtomicU8, AtomicUsize, Mutex, MutexGuard};

/// A graceful shutdown: creates [`DrainWatch`]es, signals them to end, and waits until all are dropped.
///
/// An idle connection costs only its slot here: it is not polled until the drain begins.
#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

/// A connection's handle of a [`Drain`]. When it is dropped, the connection counts as ended.
pub struct DrainWatch {
    shared: Arc<Shared>,
    slot: usize,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    /// 0 until the drain begins, then `DRAINING`, and `ABORTED` after an abort.
    phase: AtomicU8,
    slots: Mutex<Slots>,
    empty: Notify,
    group: Arc<Group>,
}

/// The state that the drains of one server share.
#[derive(Default)]
struct Group {
    /// Each watch adds a permit here when it is dropped.
    permits: Option<Arc<Semaphore>>,
    /// The number of idle connections that should end so that others are admitted.
    shed_requests: AtomicUsize,
}

const DRAINING: u8 = 1;
const ABORTED: u8 = 2;

/// The wakers of the watches; a watch stores the index of its slot.
#[derive(Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    /// The slot at which the next round of wake-ups to shed starts.
    next: usize,
}

impl Slots {
    fn occupied(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    /// Returns the wakers of the next `n` slots, in round-robin order.
    fn next(&mut self, n: usize) -> Vec<Waker> {
        let (len, from) = (self.wakers.len(), self.next);
        let n = len.min(n);
        self.next = (from + n).checked_rem(len).unwrap_or(0);
        (from..from + n).filter_map(|i| self.wakers[i % len].clone()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while the lock is held.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: u8) {
        self.phase.fetch_max(phase, Ordering::AcqRel);
        let wakers: Vec<_> = self.lock().wakers.iter().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drain {
    /// Creates a drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a drain whose watches each add a permit to `permits` when they are dropped.
    ///
    /// The caller of [`watch`](Self::watch) must have acquired a permit and forgotten it. So an idle
    /// connection does not hold an owned permit, which saves its memory.
    pub fn with_permits(permits: Arc<Semaphore>) -> Self {
        let group = Group { permits: Some(permits), ..Group::default() };
        Self(Arc::new(Shared { group: Arc::new(group), ..Shared::default() }))
    }

    /// Creates another drain for connections of the same server: it shares only the permits and the
    /// [requests to shed](Self::request_shed).
    pub fn sibling(&self) -> Self {
        Self(Arc::new(Shared { group: self.0.group.clone(), ..Shared::default() }))
    }

    /// Creates a watch for a new connection.
    pub fn watch(&self) -> DrainWatch {
        let mut slots = self.0.lock();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        drop(slots);
        DrainWatch { shared: self.0.clone(), slot, waker: None }
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.0.lock().occupied()
    }

    /// Returns whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins the drain: every connection ends after its current exchange, idle ones at once, and those that have not
    /// had a request within a second.
    pub fn begin(&self) {
        self.0.set_phase(DRAINING);
    }

    /// Aborts all connections that have not ended, in the middle of an exchange if there is one.
    pub fn abort(&self) {
        self.0.set_phase(ABORTED);
    }

    /// Requests that `n` idle connections of this drain and its siblings end; replaces an earlier request.
    /// They see it when they are [woken](Self::wake_next).
    pub fn request_shed(&self, n: usize) {
        self.0.group.shed_requests.store(n, Ordering::Release);
    }

    /// Wakes the next `n` connections of this drain, in turn, so that the idle ones among them see a
    /// [request to shed](Self::request_shed).
    ///
    /// There is no list of idle connections, since each request would have to update it.
    pub fn wake_next(&self, n: usize) {
        let next = self.0.lock().next(n);
        next.into_iter().for_each(Waker::wake);
    }

    /// Waits until there is no connection.
    pub async fn ended(&self) {
        loop {
            let mut notified = std::pin::pin!(self.0.empty.notified());
            notified.as_mut().enable();
            if self.is_empty() {
                return;
            }
            notified.await;
        }
    }
}

impl DrainWatch {
    /// Creates a watch whose drain never begins.
    pub fn never() -> Self {
        Drain::new().watch()
    }

    /// Returns whether the drain has started. The task of `cx` is woken when it begins, and when the connections
    /// are [aborted](Self::is_aborted).
    pub fn poll_draining(&mut self, cx: &Context<'_>) -> bool {
        if !self.is_registered(cx) {
            self.waker = Some(cx.waker().clone());
            self.shared.lock().wakers[self.slot].clone_from(&self.waker);
        }
        // Loaded after the registration, so that no change before it is missed.
        self.shared.phase.load(Ordering::Acquire) >= DRAINING
    }

    /// Returns whether the connection must end at once, even in the middle of an exchange.
    pub fn is_aborted(&self) -> bool {
        self.shared.phase.load(Ordering::Acquire) >= ABORTED
    }

    /// Returns whether an idle connection should end, see [`Drain::request_shed`].
    pub fn is_shed_requested(&self) -> bool {
        self.shared.group.shed_requests.load(Ordering::Acquire) > 0
    }

    /// Claims one request to shed. Returns `false` if none is left; otherwise this connection, which is
    /// idle, must end.
    pub fn claim_shed(&self) -> bool {
        let requests = &self.shared.group.shed_requests;
        requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }

    /// Returns whether the waker of `cx` is registered.
    fn is_registered(&self, cx: &Context<'_>) -> bool {
        self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()))
    }
}

impl Drop for DrainWatch {
    fn drop(&mut self) {
        let mut slots = self.shared.lock();
        let waker = slots.wakers[self.slot].take();
        slots.free.push(self.slot);
        let is_empty = slots.occupied() == 0;
        drop(slots);
        drop(waker); // outside of the lock: the last waker of a task drops the task
        if let Some(permits) = &self.shared.group.permits {
            permits.add_permits(1);
        }
        if is_empty {
            self.shared.empty.notify_waiters();
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("connections", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for DrainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainWatch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_wakes_every_watch_and_ends_when_all_are_dropped() {
        let drain = Drain::new();
        let mut watches = [drain.watch(), drain.watch()];
        let task = tokio::spawn({
            let drain = drain.clone();
            async move {
                drain.begin();
                drain.ended().await;
            }
        });
        for watch in &mut watches {
            std::future::poll_fn(|cx| {
                if watch.poll_draining(cx) {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
        }
        assert!(!watches[0].is_aborted());
        drop(watches);
        task.await.unwrap();
    }

    #[test]
    fn reused_slot_wakes_its_new_owner() {
        let drain = Drain::new();
        let woken = Arc::new(AtomicU8::new(0));
        let waker = Waker::from(Arc::new(Count(woken.clone())));
        let cx = Context::from_waker(&waker);
        let (mut first, mut second) = (drain.watch(), drain.watch());
        assert!(!first.poll_draining(&cx) && !second.poll_draining(&cx));
        drop(first);
        let mut third = drain.watch();
        assert_eq!((drain.len(), third.slot), (2, 0));
        drain.begin();
        assert_eq!(woken.load(Ordering::Relaxed), 1, "the third has not registered yet");
        assert!(third.poll_draining(&cx) && !third.is_aborted());
        // A watch that registers after the beginning is still woken by the abort.
        drain.abort();
        assert_eq!(woken.load(Ordering::Relaxed), 3);
        assert!(second.is_aborted() && third.is_aborted());
    }

    #[test]
    fn dropped_watch_returns_its_permit() {
        let permits = Arc::new(Semaphore::new(1));
        let drain = Drain::with_permits(permits.clone());
        permits.try_acquire().unwrap().forget();
        let watch = drain.watch();
        assert_eq!(permits.available_permits(), 0);
        drop(watch);
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    fn drain_wakes_connections_in_turn_and_each_request_to_shed_is_claimed_once() {
        let drain = Drain::new();
        let sibling = drain.sibling();
        let woken = Arc::new(AtomicU8::new(0));
        let waker = Waker::from(Arc::new(Count(woken.clone())));
        let cx = Context::from_waker(&waker);
        drain.wake_next(5); // without any connection
        let mut watches: Vec<_> = (0..10).map(|_| drain.watch()).collect();
        watches.iter_mut().for_each(|w| assert!(!w.poll_draining(&cx)));
        assert!(!watches[0].is_shed_requested() && !watches[0].claim_shed());
        sibling.request_shed(2);
        for (n, all) in [(8, 8), (8, 16), (99, 26)] {
            drain.wake_next(n);
            assert_eq!(woken.load(Ordering::Relaxed), all);
        }
        assert!(watches[7].is_shed_requested());
        assert!(watches[7].claim_shed() && watches[8].claim_shed() && !watches[9].claim_shed());
        drain.request_shed(3);
        drain.request_shed(0);
        assert!(!watches[9].is_shed_requested() && !watches[9].claim_shed());
    }

    struct Count(Arc<AtomicU8>);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
