//! `Looks`: one look at the disk for all who ask for the same at a time.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::net::disk::{Disk, Job};

/// So many may wait for one look before those who have left are let go.
const FEW: usize = 64;

/// Looks that wait or are taken, by the path that is looked at. Each bears a mark of when it began.
pub(super) struct Looks<T, M> {
    disk: Disk,
    table: Arc<Table<T, M>>,
}

struct Table<T, M>(Mutex<ByPath<T, M>>);

type ByPath<T, M> = HashMap<Arc<str>, Arc<Shared<T, M>>>;

/// What a look and those who wait for it share.
struct Shared<T, M> {
    mark: M,
    /// `None`: it is over.
    waiters: Mutex<Option<Waiters<T>>>,
}

struct Waiters<T> {
    all: Vec<oneshot::Sender<io::Result<T>>>,
    /// With so many those who have left are let go: twice as many as were there then.
    full: usize,
}

impl<T, M> fmt::Debug for Looks<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("paths", &self.table.lock().len()).finish()
    }
}

impl<T, M> Default for Looks<T, M> {
    fn default() -> Self {
        Self { disk: Disk::default(), table: Arc::new(Table(Mutex::default())) }
    }
}

impl<T: Clone + Send + 'static, M: Send + Sync + 'static> Looks<T, M> {
    /// The answer of a look at `path`: of one that is on its way, if what has happened since its mark
    /// does no harm, or of a new one, which `begin` makes. No answer comes if it panics, or if the
    /// runtime ends.
    pub(super) fn join<L>(
        &self,
        path: &str,
        mark: M,
        is_harmless: impl FnOnce(&M) -> bool,
        begin: impl FnOnce() -> L,
    ) -> oneshot::Receiver<io::Result<T>>
    where
        L: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let mut table = self.table.lock();
        if let Some(shared) = table.get(path).filter(|shared| is_harmless(&shared.mark))
            && let Some(waiters) = &mut *shared.waiters()
        {
            waiters.push(answer);
            return answered;
        }
        let waiters = Waiters { all: vec![answer], full: 0 };
        let shared = Arc::new(Shared { mark, waiters: Mutex::new(Some(waiters)) });
        let path: Arc<str> = path.into();
        // One that others wait for goes on without being found any more.
        table.insert(path.clone(), shared.clone());
        drop(table);
        let (table, look) = (self.table.clone(), Some(begin()));
        self.disk.run(Box::new(Flight { path, table, shared, look }));
        answered
    }

    /// The answer of a look of one's own.
    pub(super) fn alone<L>(&self, look: L) -> oneshot::Receiver<io::Result<T>>
    where
        L: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.disk.run(Box::new(Alone { look, answer }));
        answered
    }
}

impl<T> Waiters<T> {
    fn push(&mut self, waiter: oneshot::Sender<io::Result<T>>) {
        if self.all.len() >= self.full.max(FEW) {
            self.all.retain(|waiter| !waiter.is_closed());
            self.full = 2 * self.all.len();
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

/// A look that others can join.
struct Flight<T, M, L> {
    path: Arc<str>,
    table: Arc<Table<T, M>>,
    shared: Arc<Shared<T, M>>,
    /// Until it is taken.
    look: Option<L>,
}

impl<T, M, L> Flight<T, M, L> {
    /// From here on nobody joins it. Those who did.
    fn land(&self) -> Vec<oneshot::Sender<io::Result<T>>> {
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
        drop(self.land()); // if it has panicked, or was never taken
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
            *waiters = None; // nobody joins it from here on
        }
        wanted
    }

    fn run(mut self: Box<Self>) {
        let Some(look) = self.look.take() else { return };
        let found = look();
        for waiter in self.land() {
            let answer = match &found {
                Ok(found) => Ok(found.clone()),
                Err(error) => Err(again(error)),
            };
            let _ = waiter.send(answer);
        }
    }
}

/// A look that nobody joins.
struct Alone<T, L> {
    look: L,
    answer: oneshot::Sender<io::Result<T>>,
}

impl<T, L> Job for Alone<T, L>
where
    T: Send,
    L: FnOnce() -> io::Result<T> + Send,
{
    fn is_wanted(&mut self) -> bool {
        !self.answer.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { look, answer } = *self;
        let _ = answer.send(look());
    }
}

/// The same error for one more.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl<T, M> Table<T, M> {
    fn lock(&self) -> MutexGuard<'_, ByPath<T, M>> {
        // The table is whole between any two statements that can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn all_who_ask_for_the_same_get_the_answer_of_one_look() {
        let (looks, taken) = (Looks::default(), Arc::new(AtomicUsize::new(0)));
        let hold = Arc::new(Barrier::new(2));
        let join = |path: &str| {
            looks.join(
                path,
                (),
                |()| true,
                || {
                    let (taken, hold) = (taken.clone(), hold.clone());
                    move || {
                        hold.wait();
                        Ok(taken.fetch_add(1, Ordering::SeqCst))
                    }
                },
            )
        };
        let all: Vec<_> = (0..100).map(|_| join("/a")).collect();
        hold.wait();
        for answer in all {
            assert_eq!(answer.await.unwrap().unwrap(), 0);
        }
        // The next one is another look, and what is asked for beside it, too.
        let (a, b) = (join("/a"), join("/b"));
        hold.wait();
        hold.wait();
        assert_eq!(a.await.unwrap().unwrap() + b.await.unwrap().unwrap(), 1 + 2);
        assert!(looks.table.lock().is_empty());
    }

    #[tokio::test]
    async fn an_error_is_everybody_s_and_so_is_a_panic() {
        let looks = Looks::<(), ()>::default();
        let hold = Arc::new(Barrier::new(2));
        for panics in [false, true] {
            let join = || {
                looks.join(
                    "/a",
                    (),
                    |()| true,
                    || {
                        let hold = hold.clone();
                        move || {
                            hold.wait();
                            assert!(!panics, "a fault of the backend");
                            Err(io::Error::from_raw_os_error(5))
                        }
                    },
                )
            };
            let (a, b) = (join(), join());
            hold.wait();
            for answer in [a, b] {
                match answer.await {
                    Ok(answer) => assert_eq!(answer.unwrap_err().raw_os_error(), Some(5)),
                    Err(_) => assert!(panics),
                }
            }
            assert!(looks.table.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn whoever_comes_when_all_others_have_left_gets_an_answer() {
        let looks = Looks::default();
        for n in 0..1000 {
            drop(looks.join("/a", (), |()| true, || move || Ok(n)));
            let answer = looks.join("/a", (), |()| true, || move || Ok(n)).await;
            assert_eq!(answer.unwrap().unwrap(), n);
        }
    }

    #[tokio::test]
    async fn who_may_not_join_begins_another_look_and_each_gets_its_own_answer() {
        let looks = Looks::default();
        let hold = Arc::new(Barrier::new(2));
        let join = |mark: u32| {
            let hold = hold.clone();
            looks.join(
                "/a",
                mark,
                move |of| *of == mark,
                || {
                    move || {
                        hold.wait();
                        Ok(mark)
                    }
                },
            )
        };
        let (one, two, again) = (join(1), join(2), join(2));
        hold.wait();
        hold.wait();
        for (answer, want) in [(one, 1), (two, 2), (again, 2)] {
            assert_eq!(answer.await.unwrap().unwrap(), want);
        }
        assert!(looks.table.lock().is_empty());
    }

    #[tokio::test]
    async fn those_who_left_are_not_kept_while_a_look_hangs() {
        let looks = Looks::default();
        let hold = Arc::new(Barrier::new(2));
        let held = hold.clone();
        let first = looks.join(
            "/a",
            (),
            |()| true,
            || {
                move || {
                    held.wait();
                    Ok(())
                }
            },
        );
        for _ in 0..100 * FEW {
            drop(looks.join("/a", (), |()| true, || || unreachable!("there is one")));
        }
        let kept = looks.table.lock()["/a"].waiters().as_ref().unwrap().all.len();
        assert!(kept <= 2 * FEW, "{kept}");
        hold.wait();
        first.await.unwrap().unwrap();
    }
}
