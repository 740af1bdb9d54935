//! Telling many connections that it is time to end.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use tokio::sync::Notify;

/// The one who says when: hands out [`Watch`]es, and waits until all are gone.
///
/// An idle connection costs nothing more than its entry here: it is not polled until the drain
/// begins.
#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

/// A connection's view of a [`Drain`]. Dropped, it counts as ended.
pub struct Watch {
    shared: Arc<Shared>,
    id: u64,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Shared {
    draining: AtomicBool,
    watches: Mutex<Watches>,
    empty: Notify,
}

#[derive(Default)]
struct Watches {
    next: u64,
    wakers: HashMap<u64, Option<Waker>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Watches> {
        // Nothing panics while it is held.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A watch for one more connection.
    pub fn watch(&self) -> Watch {
        let mut w = self.0.lock();
        let id = w.next;
        w.next += 1;
        w.wakers.insert(id, None);
        drop(w);
        Watch { shared: self.0.clone(), id, waker: None }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.0.lock().wakers.len()
    }

    /// Is there no connection?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins: every connection ends after its present exchange, idle ones now.
    pub fn begin(&self) {
        self.0.draining.store(true, Ordering::Release);
        let wakers: Vec<_> = self.0.lock().wakers.values().flatten().cloned().collect();
        wakers.into_iter().for_each(Waker::wake);
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

    /// Has the drain begun? If not, the task of `cx` is woken when it does.
    pub fn poll_draining(&mut self, cx: &Context<'_>) -> bool {
        if self.shared.draining.load(Ordering::Acquire) {
            return true;
        }
        if !self.knows(cx) {
            self.waker = Some(cx.waker().clone());
            self.shared.lock().wakers.insert(self.id, self.waker.clone());
            // It may have begun between the look and the entry.
            return self.shared.draining.load(Ordering::Acquire);
        }
        false
    }

    /// Is the task of `cx` the one that is registered?
    fn knows(&self, cx: &Context<'_>) -> bool {
        self.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut w = self.shared.lock();
        w.wakers.remove(&self.id);
        if w.wakers.is_empty() {
            drop(w);
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
    async fn wakes_every_watch_and_ends_when_they_are_gone() {
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
        drop(watches);
        task.await.unwrap();
    }
}
