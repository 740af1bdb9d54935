//! Telling many connections that it is time to end.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    task::{Context, Waker},
};

use tokio::sync::{Notify, Semaphore};

/// The one who says when: hands out [`Watch`]es, and waits until all are gone.
///
/// An idle connection costs nothing more than its place here: it is not polled until the drain
/// begins.
#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

/// A connection's view of a [`Drain`]. Dropped, it counts as ended.
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
    /// Where each watch leaves a permit when it ends.
    permits: Option<Arc<Semaphore>>,
    /// How many idle connections should end to make room.
    unwanted: AtomicUsize,
}

/// Connections that are woken at a time to see whether one of them is idle and can end.
const ASKED: usize = 64;

const END: u8 = 1;
const CUT: u8 = 2;

/// Those to wake, each at a place that its watch knows.
#[derive(Default)]
struct Places {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    /// Where the next to be asked to end are.
    asked: usize,
}

impl Places {
    fn taken(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    /// The next few, round and round.
    fn some(&mut self) -> Vec<Waker> {
        let (len, from) = (self.wakers.len(), self.asked);
        let n = len.min(ASKED);
        self.asked = (from + n).checked_rem(len).unwrap_or(0);
        (from..from + n).filter_map(|i| self.wakers[i % len].clone()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing panics while it is held.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, order: u8) {
        self.order.fetch_max(order, Ordering::AcqRel);
        let wakers: Vec<_> = self.lock().wakers.iter().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A drain whose watches each give a permit back when they are dropped.
    ///
    /// Whoever asks for a watch has acquired one and forgotten it: the room of an owned permit in
    /// every idle connection is saved.
    pub fn with_permits(permits: Arc<Semaphore>) -> Self {
        Self(Arc::new(Shared { permits: Some(permits), ..Shared::default() }))
    }

    /// A watch for one more connection.
    pub fn watch(&self) -> Watch {
        let mut p = self.0.lock();
        let place = p.free.pop().unwrap_or_else(|| {
            p.wakers.push(None);
            p.wakers.len() - 1
        });
        drop(p);
        Watch { shared: self.0.clone(), place, waker: None }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.0.lock().taken()
    }

    /// Is there no connection?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins: every connection ends after its present exchange, idle ones now.
    pub fn begin(&self) {
        self.0.tell(END);
    }

    /// Gives up on those that have not ended: every connection ends now.
    pub fn cut(&self) {
        self.0.tell(CUT);
    }

    /// Asks for room: one connection that is idle should end. A few are woken to see whether they
    /// are; call it again, some time later, for the next few.
    ///
    /// Nobody keeps a list of those that are idle: each request would pay for it.
    pub fn make_room(&self) {
        self.0.unwanted.store(1, Ordering::Release);
        let some = self.0.lock().some();
        some.into_iter().for_each(Waker::wake);
    }

    /// There is room: no connection need end any more.
    pub fn has_room(&self) {
        self.0.unwanted.store(0, Ordering::Release);
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
    /// A watch that is never told anything.
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
        // Looked at behind the entry: nothing that was told before it is missed.
        self.shared.order.load(Ordering::Acquire) >= END
    }

    /// Must the connection end now, in the middle of whatever it does?
    pub fn is_cut(&self) -> bool {
        self.shared.order.load(Ordering::Acquire) >= CUT
    }

    /// Should some idle connection end to [make room](Drain::make_room)?
    pub fn wants_room(&self) -> bool {
        self.shared.unwanted.load(Ordering::Acquire) > 0
    }

    /// Is it this connection that ends to make room? Asked of one that can.
    pub fn gives_room(&self) -> bool {
        let unwanted = &self.shared.unwanted;
        unwanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok()
    }

    /// Is the task of `cx` the one that is registered?
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
        drop(waker); // perhaps the last of its task, which then drops what it holds
        if let Some(permits) = &self.shared.permits {
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
        // Who asks only after the beginning is still told of the cut.
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
    fn drain_sheds_few_idle_connections_at_a_time_and_each_once() {
        let drain = Drain::new();
        let woken = Arc::new(AtomicU8::new(0));
        let waker = Waker::from(Arc::new(Count(woken.clone())));
        let cx = Context::from_waker(&waker);
        drain.make_room(); // of nobody
        drain.has_room();
        let mut watches: Vec<_> = (0..ASKED + 1).map(|_| drain.watch()).collect();
        watches.iter_mut().for_each(|w| assert!(!w.poll_draining(&cx)));
        assert!(!watches[0].wants_room() && !watches[0].gives_room(), "nobody asked");
        drain.make_room();
        assert_eq!(usize::from(woken.load(Ordering::Relaxed)), ASKED);
        assert!(watches[7].wants_room());
        assert!(watches[7].gives_room() && !watches[8].gives_room());
        drain.make_room();
        assert_eq!(usize::from(woken.load(Ordering::Relaxed)), 2 * ASKED, "the last is asked too");
        drain.has_room();
        assert!(!watches[7].gives_room());
    }

    struct Count(Arc<AtomicU8>);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
