//! `Wakers`: the streams of a connection that were woken since their last poll.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// The key of the connection itself among the keys of streams.
pub(super) const CONNECTION: usize = usize::MAX;

/// The woken futures of one task. All streams of a connection run in its task, without a channel or another task
/// between a request and its response; a wake-up identifies the stream to poll.
#[derive(Debug, Default)]
pub(super) struct Wakers(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    woken: VecDeque<usize>,
    /// Whether the task is being polled, and will check the queue before it returns.
    is_polling: bool,
    task: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one stream.
#[derive(Debug)]
struct Slot {
    key: usize,
    queue: Arc<Queue>,
    is_queued: AtomicBool,
}

impl Slot {
    fn push(&self) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.queue.lock();
        state.woken.push_back(self.key);
        let task = if state.is_polling { None } else { state.task.take() };
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.push();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.push();
    }
}

/// The entry of a stream in the queue, with its waker.
#[derive(Debug)]
pub(super) struct StreamWaker {
    slot: Arc<Slot>,
    waker: Waker,
}

impl StreamWaker {
    /// Returns the waker for a poll. From now on, a wake-up queues the stream again.
    pub(super) fn begin_poll(&self) -> &Waker {
        self.slot.is_queued.store(false, Ordering::Release);
        &self.waker
    }

    /// Returns the waker.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Queues the stream, which is polled in this poll of the task or the next.
    pub(super) fn wake(&self) {
        self.slot.push();
    }
}

impl Wakers {
    /// Creates the waker of a stream, which is queued for its first poll.
    pub(super) fn stream(&self, key: usize) -> StreamWaker {
        let slot = Arc::new(Slot { key, queue: self.0.clone(), is_queued: AtomicBool::new(false) });
        slot.push();
        StreamWaker { waker: slot.clone().into(), slot }
    }

    /// Begins a poll of the task. Until [`try_end`](Self::try_end), wake-ups only queue streams.
    pub(super) fn begin(&self, cx: &Context<'_>) {
        let mut state = self.0.lock();
        state.is_polling = true;
        match &mut state.task {
            Some(task) => task.clone_from(cx.waker()),
            None => state.task = Some(cx.waker().clone()),
        }
    }

    /// Returns the next stream that was woken.
    pub(super) fn pop(&self) -> Option<usize> {
        self.0.lock().woken.pop_front()
    }

    /// Ends the poll unless a stream was woken in it. Returns whether it has ended.
    pub(super) fn try_end(&self) -> bool {
        let mut state = self.0.lock();
        state.is_polling = !state.woken.is_empty();
        !state.is_polling
    }

    /// Ends the poll. The caller must wake the task if streams are left in the queue.
    pub(super) fn end(&self) {
        self.0.lock().is_polling = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn task_is_woken_once_for_streams_that_wake_outside_of_its_poll() {
        let count = Arc::new(Count::default());
        let waker = count.clone().into();
        let cx = Context::from_waker(&waker);
        let wakers = Wakers::default();
        wakers.begin(&cx);
        let streams = [7, 8].map(|key| wakers.stream(key));
        assert!(!wakers.try_end(), "both are new");
        assert_eq!((wakers.pop(), wakers.pop(), wakers.pop()), (Some(7), Some(8), None));
        let polled = streams.each_ref().map(|stream| stream.begin_poll().clone());
        polled[0].wake_by_ref();
        assert!(!wakers.try_end() && wakers.pop() == Some(7));
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "it polls already");
        streams[0].begin_poll();
        assert!(wakers.try_end());
        for _ in 0..3 {
            polled.iter().for_each(Waker::wake_by_ref);
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        wakers.begin(&cx);
        assert_eq!((wakers.pop(), wakers.pop(), wakers.pop()), (Some(7), Some(8), None));
    }
}
