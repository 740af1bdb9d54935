//! `Drain`: graceful shutdown of many connections.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Waker},
};

use tokio::sync::{Notify, Semaphore};

use crate::sync::{AtomicU8, AtomicUsize, Mutex, MutexGuard};

/// A graceful shutdown: creates [`Watch`]es, signals them to end, and waits until all are dropped.
///
/// An idle connection costs only its slot here: it is not polled until the drain begins.
#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

/// A connection's handle of a [`Drain`]. When it is dropped, the connection counts as ended.
pub struct Watch {
    shared: Arc<Shared>,
    place: usize,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    /// 0, then `END`, then perhaps `CUT`.
    order: AtomicU8,
    places: Mutex<Places>,
    empty: Notify,
    room: Arc<Room>,
}

/// The state that the drains of one server share.
#[derive(Default)]
struct Room {
    /// Each watch adds a permit here when it is dropped.
    permits: Option<Arc<Semaphore>>,
    /// The number of idle connections that should end so that others are admitted.
    shed_requests: AtomicUsize,
}

const END: u8 = 1;
const CUT: u8 = 2;

/// The wakers of the watches; each watch knows its slot.
#[derive(Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    /// The slot at which the next round of wake-ups to shed starts.
    next: usize,
}

impl Places {
    fn taken(&self) -> usize {
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
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing panics while the lock is held.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, order: u8) {
        self.order.fetch_max(order, Ordering::AcqRel);
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
        let room = Room { permits: Some(permits), ..Room::default() };
        Self(Arc::new(Shared { room: Arc::new(room), ..Shared::default() }))
    }

    /// Creates another drain for connections of the same server: it shares only the permits and the
    /// [requests to shed](Self::request_shed).
    pub fn sibling(&self) -> Self {
        Self(Arc::new(Shared { room: self.0.room.clone(), ..Shared::default() }))
    }

    /// Creates a watch for a new connection.
    pub fn watch(&self) -> Watch {
        let mut p = self.0.lock();
        let place = p.free.pop().unwrap_or_else(|| {
            p.wakers.push(None);
            p.wakers.len() - 1
        });
        drop(p);
        Watch { shared: self.0.clone(), place, waker: None }
    }

    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.0.lock().taken()
    }

    /// Returns whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins the drain: every connection ends after its current exchange, idle ones at once.
    pub fn begin(&self) {
        self.0.tell(END);
    }

    /// Aborts all connections that have not ended, in the middle of an exchange if there is one.
    pub fn cut(&self) {
        self.0.tell(CUT);
    }

    /// Requests that `n` idle connections of this drain and its siblings end; replaces an earlier request.
    /// They see it when they are [woken](Self::wake_next).
    pub fn request_shed(&self, n: usize) {
        self.0.room.shed_requests.store(n, Ordering::Release);
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

impl Watch {
    /// Creates a watch whose drain never begins.
    pub fn never() -> Self {
        Drain::new().watch()
    }

    /// Has the drain begun? The task of `cx` is woken when it does, and when it is
    /// [cut](Self::is_cut).
    pub fn poll_draining(&mut self, cx: &Context<'_>) -> bool {
        if !self.knows(cx) {
            self.waker = Some(cx.waker().clone());
            self.shared.lock().wakers[self.place].clone_from(&self.waker);
        }
        // Loaded after the registration, so that no change before it is missed.
        self.shared.order.load(Ordering::Acquire) >= END
    }

    /// Returns whether the connection must end at once, even in the middle of an exchange.
    pub fn is_cut(&self) -> bool {
        self.shared.order.load(Ordering::Acquire) >= CUT
    }

    /// Returns whether an idle connection should end, see [`Drain::request_shed`].
    pub fn is_shed_requested(&self) -> bool {
        self.shared.room.shed_requests.load(Ordering::Acquire) > 0
    }

    /// Claims one request to shed. Returns `false` if none is left; otherwise this connection, which is
    /// idle, must end.
    pub fn claim_shed(&self) -> bool {
        let requests = &self.shared.room.shed_requests;
        requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }

    /// Returns whether the waker of `cx` is registered.
    fn knows(&self, cx: &Context<'_>) -> bool {
        self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut p = self.shared.lock();
        let waker = p.wakers[self.place].take();
        p.free.push(self.place);
        let empty = p.taken() == 0;
        drop(p);
        drop(waker); // outside of the lock: the last waker of a task drops the task
        if let Some(permits) = &self.shared.room.permits {
            permits.add_permits(1);
        }
        if empty {
            self.shared.empty.notify_waiters();
        }
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("connections", &self.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
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
        assert!(!watches[0].is_cut());
        drop(watches);
        task.await.unwrap();
    }

    #[test]
    fn slot_is_used_again_and_its_new_owner_is_told() {
        let drain = Drain::new();
        let woken = Arc::new(AtomicU8::new(0));
        let waker = Waker::from(Arc::new(Count(woken.clone())));
        let cx = Context::from_waker(&waker);
        let (mut first, mut second) = (drain.watch(), drain.watch());
        assert!(!first.poll_draining(&cx) && !second.poll_draining(&cx));
        drop(first);
        let mut third = drain.watch();
        assert_eq!((drain.len(), third.place), (2, 0));
        drain.begin();
        assert_eq!(woken.load(Ordering::Relaxed), 1, "the third has not asked yet");
        assert!(third.poll_draining(&cx) && !third.is_cut());
        // A watch that registers after the beginning is still woken by the abort.
        drain.cut();
        assert_eq!(woken.load(Ordering::Relaxed), 3);
        assert!(second.is_cut() && third.is_cut());
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
        drain.wake_next(5); // of none
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
