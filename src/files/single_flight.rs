//! `SingleFlight`: one blocking lookup for all requests of the same path.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::{
    net::blocking_pool::{BlockingPool, Job, copy_error},
    sync::{Mutex, MutexGuard},
};

/// The number of waiters above which those that have gone are pruned.
const PRUNE_THRESHOLD: usize = 64;

/// Lookups in flight, by path. Each has a mark that its first caller has set.
pub(super) struct SingleFlight<T, M> {
    pool: BlockingPool,
    table: Arc<Table<T, M>>,
}

struct Table<T, M>(Mutex<ByPath<T, M>>);

type ByPath<T, M> = HashMap<Arc<str>, Arc<Shared<T, M>>>;

/// State that a lookup and its waiters share.
struct Shared<T, M> {
    mark: M,
    /// `None` once the lookup is over.
    waiters: Mutex<Option<Waiters<T>>>,
}

struct Waiters<T> {
    all: Vec<oneshot::Sender<io::Result<T>>>,
    /// The length at which to prune next: twice the length after the last time.
    prune_at: usize,
}

impl<T, M> fmt::Debug for SingleFlight<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("paths", &self.table.lock().len()).finish()
    }
}

impl<T, M> Default for SingleFlight<T, M> {
    fn default() -> Self {
        Self::on(BlockingPool::default())
    }
}

impl<T, M> SingleFlight<T, M> {
    /// Creates an empty one, whose lookups run on `pool`.
    pub(super) fn on(pool: BlockingPool) -> Self {
        Self { pool, table: Arc::new(Table(Mutex::default())) }
    }
}

impl<T: Clone + Send + 'static, M: Send + Sync + 'static> SingleFlight<T, M> {
    /// Joins the lookup of `path` that is in flight if `can_join` accepts its mark; otherwise starts
    /// a new one, which `make_lookup` makes.
    ///
    /// The receiver resolves to an error if no thread can be started, and fails if the lookup panics.
    pub(super) fn join<L>(
        &self,
        path: &str,
        mark: M,
        can_join: impl FnOnce(&M) -> bool,
        make_lookup: impl FnOnce() -> L,
    ) -> oneshot::Receiver<io::Result<T>>
    where
        L: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answered, flight) =
            self.table.join(path, mark, can_join, || in_runtime(make_lookup()));
        if let Some(flight) = flight {
            self.pool.run(flight);
        }
        answered
    }

    /// Starts a lookup that no other caller can join.
    pub(super) fn run_unshared<L>(&self, lookup: L) -> oneshot::Receiver<io::Result<T>>
    where
        L: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.pool.run(Box::new(Unshared { lookup: in_runtime(lookup), answer }));
        answered
    }
}

/// Enters the caller's runtime for the lookup: a backend may spawn tasks, or wait for a future.
fn in_runtime<T>(lookup: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let runtime = Handle::try_current().ok();
    move || {
        let _entered = runtime.as_ref().map(Handle::enter);
        lookup()
    }
}

impl<T, M> Table<T, M> {
    /// Returns a receiver of the result, and the flight if the caller has to run it.
    #[allow(clippy::type_complexity, reason = "it is used once")]
    fn join<L>(
        self: &Arc<Self>,
        path: &str,
        mark: M,
        can_join: impl FnOnce(&M) -> bool,
        make_lookup: impl FnOnce() -> L,
    ) -> (oneshot::Receiver<io::Result<T>>, Option<Box<Flight<T, M, L>>>) {
        let (answer, answered) = oneshot::channel();
        let mut table = self.lock();
        if let Some(shared) = table.get(path).filter(|shared| can_join(&shared.mark))
            && let Some(waiters) = &mut *shared.waiters()
        {
            waiters.push(answer);
            return (answered, None);
        }
        let waiters = Waiters { all: vec![answer], prune_at: 0 };
        let shared = Arc::new(Shared { mark, waiters: Mutex::new(Some(waiters)) });
        let path: Arc<str> = path.into();
        // A lookup that is replaced here still answers its own waiters.
        table.insert(path.clone(), shared.clone());
        drop(table);
        let (table, lookup) = (self.clone(), Some(make_lookup()));
        (answered, Some(Box::new(Flight { path, table, shared, lookup })))
    }

    fn lock(&self) -> MutexGuard<'_, ByPath<T, M>> {
        // The table is consistent between any two statements that can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiters<T> {
    fn push(&mut self, waiter: oneshot::Sender<io::Result<T>>) {
        if self.all.len() >= self.prune_at.max(PRUNE_THRESHOLD) {
            self.all.retain(|waiter| !waiter.is_closed());
            self.prune_at = 2 * self.all.len();
        }
        self.all.push(waiter);
    }
}

impl<T, M> Shared<T, M> {
    fn waiters(&self) -> MutexGuard<'_, Option<Waiters<T>>> {
        // Nothing panics while it is held.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup that others can join.
struct Flight<T, M, L> {
    path: Arc<str>,
    table: Arc<Table<T, M>>,
    shared: Arc<Shared<T, M>>,
    /// `None` once it has run.
    lookup: Option<L>,
}

impl<T, M, L> Flight<T, M, L> {
    /// Ends the flight with a result for all waiters.
    fn answer(&self, found: &io::Result<T>)
    where
        T: Clone,
    {
        for waiter in self.complete() {
            let _ = waiter.send(match found {
                Ok(found) => Ok(found.clone()),
                Err(error) => Err(copy_error(error)),
            });
        }
    }

    /// Removes the flight from the table and returns its waiters.
    fn complete(&self) -> Vec<oneshot::Sender<io::Result<T>>> {
        let mut table = self.table.lock();
        if table.get(&self.path).is_some_and(|shared| Arc::ptr_eq(shared, &self.shared)) {
            table.remove(&self.path);
        }
        drop(table);
        let waiters = self.shared.waiters().take();
        waiters.map(|waiters| waiters.all).unwrap_or_default()
    }
}

impl<T, M, L> Drop for Flight<T, M, L> {
    fn drop(&mut self) {
        drop(self.complete()); // the lookup panicked or was never run
    }
}

impl<T, M, L> Job for Flight<T, M, L>
where
    T: Clone + Send,
    M: Send + Sync,
    L: FnOnce() -> io::Result<T> + Send,
{
    fn is_wanted(&mut self) -> bool {
        let mut waiters = self.shared.waiters();
        let wanted = waiters.as_ref().is_some_and(|w| w.all.iter().any(|w| !w.is_closed()));
        if !wanted {
            *waiters = None; // no request joins it any more
        }
        wanted
    }

    fn run(mut self: Box<Self>) {
        let Some(lookup) = self.lookup.take() else { return };
        self.answer(&lookup());
    }

    fn fail(self: Box<Self>, error: &io::Error) {
        self.answer(&Err(copy_error(error)));
    }
}

/// A lookup that is not shared.
struct Unshared<T, L> {
    lookup: L,
    answer: oneshot::Sender<io::Result<T>>,
}

impl<T, L> Job for Unshared<T, L>
where
    T: Send,
    L: FnOnce() -> io::Result<T> + Send,
{
    fn is_wanted(&mut self) -> bool {
        !self.answer.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { lookup, answer } = *self;
        let _ = answer.send(lookup());
    }

    fn fail(self: Box<Self>, error: &io::Error) {
        let _ = self.answer.send(Err(copy_error(error)));
    }
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
