//! The runtimes that serve connections, and the tasks of others in them.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use tokio::{
    runtime::{Handle, Id},
    sync::watch,
};

/// The runtimes that serve connections.
static RUNTIMES: Mutex<Vec<Runtime>> = Mutex::new(Vec::new());

/// How often a runtime has stopped serving connections.
static ENDS: AtomicU64 = AtomicU64::new(0);

struct Runtime {
    id: Id,
    /// The number of its accept loops.
    accept_loops: usize,
    tasks: Arc<CrossRuntimeTasks>,
}

/// Declares that the current runtime serves connections, until this value is dropped. Such a runtime is long-lived, has
/// timers, and its threads are not blocked.
#[derive(Debug)]
pub(crate) struct Serving(Option<Id>);

impl Serving {
    pub(crate) fn new() -> Self {
        let id = Handle::current().id();
        let mut runtimes = runtimes();
        match runtimes.iter_mut().find(|runtime| runtime.id == id) {
            Some(runtime) => runtime.accept_loops += 1,
            None => runtimes.push(Runtime { id, accept_loops: 1, tasks: Arc::default() }),
        }
        Self(Some(id))
    }

    /// Declares that the accept loop has ended. If it was the last one of its runtime, waits until the tasks of the
    /// runtime that serve clients of others have left.
    pub(crate) async fn end(mut self) {
        let Some(tasks) = self.close() else { return };
        let mut count = tasks.count.subscribe();
        let _ = count.wait_for(|&count| count == 0).await; // `tasks` holds the sender
    }

    /// Removes the accept loop. Returns those tasks of its runtime if it was the last one.
    fn close(&mut self) -> Option<Arc<CrossRuntimeTasks>> {
        let id = self.0.take()?;
        let mut runtimes = runtimes();
        let at = runtimes.iter().position(|runtime| runtime.id == id)?;
        runtimes[at].accept_loops -= 1;
        if runtimes[at].accept_loops > 0 {
            return None;
        }
        let tasks = runtimes.swap_remove(at).tasks;
        // Before the tasks are woken: they must not find the runtime again.
        ENDS.fetch_add(1, Ordering::Release);
        drop(runtimes);
        tasks.end();
        Some(tasks)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.close();
    }
}

/// The tasks in a runtime that serve clients of other runtimes, too.
#[derive(Debug, Default)]
struct CrossRuntimeTasks {
    count: watch::Sender<usize>,
    /// The number of the next one.
    next: AtomicU64,
    has_ended: AtomicBool,
    /// Those that are woken when the runtime stops serving connections, by their number.
    wakers: Mutex<HashMap<u64, Waker>>,
}

impl CrossRuntimeTasks {
    fn wakers(&self) -> MutexGuard<'_, HashMap<u64, Waker>> {
        // Nothing panics while the lock is held.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        let wakers = std::mem::take(&mut *self.wakers());
        wakers.into_values().for_each(Waker::wake);
    }
}

/// A task of the current runtime that serves clients of other runtimes, too. When the runtime stops serving
/// connections, it must move to another one, or end. [`Serving::end`] waits for that.
#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
#[derive(Debug)]
pub(crate) struct CrossRuntimeTask {
    tasks: Arc<CrossRuntimeTasks>,
    number: u64,
}

#[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
impl CrossRuntimeTask {
    /// Registers the current task, which is woken when the runtime stops serving connections. Returns `None` if the
    /// runtime does not serve any.
    pub(crate) async fn new() -> Option<Self> {
        poll_fn(|cx| {
            let task = Self::current();
            if let Some(Self { tasks, number }) = &task {
                tasks.wakers().insert(*number, cx.waker().clone());
                if tasks.has_ended.load(Ordering::Acquire) {
                    cx.waker().wake_by_ref(); // it may have ended before the insertion
                }
            }
            Poll::Ready(task)
        })
        .await
    }

    /// Registers a task that ends by itself when the connections are drained.
    pub(crate) fn current() -> Option<Self> {
        let id = Handle::try_current().ok()?.id();
        let runtimes = runtimes();
        let tasks = &runtimes.iter().find(|runtime| runtime.id == id)?.tasks;
        tasks.count.send_modify(|count| *count += 1);
        let number = tasks.next.fetch_add(1, Ordering::Relaxed);
        Some(Self { tasks: tasks.clone(), number })
    }

    /// Returns whether the runtime has stopped serving connections.
    pub(crate) fn must_leave(&self) -> bool {
        self.tasks.has_ended.load(Ordering::Acquire)
    }
}

impl Drop for CrossRuntimeTask {
    fn drop(&mut self) {
        let waker = self.tasks.wakers().remove(&self.number);
        drop(waker); // without the lock
        self.tasks.count.send_modify(|count| *count -= 1);
    }
}

/// Returns whether a runtime serves connections.
#[cfg(feature = "process")]
pub(crate) fn is_serving(runtime: &Handle) -> bool {
    runtimes().iter().any(|serving| serving.id == runtime.id())
}

/// Returns a number that changes when a runtime stops serving connections.
#[cfg(feature = "process")]
pub(crate) fn ends() -> u64 {
    ENDS.load(Ordering::Acquire)
}

fn runtimes() -> MutexGuard<'static, Vec<Runtime>> {
    // Nothing panics while the lock is held.
    RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner)
}
