//! `Looks`: one look at the disk for all who ask for the same at a time.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::net::disk::{Disk, Job};

/// Looks that wait or are taken, by the path that is looked at.
pub(super) struct Looks<T> {
    disk: Disk,
    flights: Arc<Flights<T>>,
}

struct Flights<T>(Mutex<HashMap<Arc<str>, Waiters<T>>>);

/// Those who wait for a look.
type Waiters<T> = Vec<oneshot::Sender<io::Result<T>>>;

impl<T> fmt::Debug for Looks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("paths", &self.flights.lock().len()).finish()
    }
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        Self { disk: Disk::default(), flights: Arc::new(Flights(Mutex::default())) }
    }
}

impl<T: Clone + Send + 'static> Looks<T> {
    /// The answer of a look at `path`: of one that is on its way, or of a new one, which `begin`
    /// makes. No answer comes if it panics, or if the runtime ends.
    pub(super) fn join<L>(
        &self,
        path: &str,
        begin: impl FnOnce() -> L,
    ) -> oneshot::Receiver<io::Result<T>>
    where
        L: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let mut flights = self.flights.lock();
        if let Some(waiters) = flights.get_mut(path) {
            waiters.retain(|waiter| !waiter.is_closed());
            waiters.push(answer);
            return answered;
        }
        let path: Arc<str> = path.into();
        flights.insert(path.clone(), vec![answer]);
        drop(flights);
        let (flights, look) = (self.flights.clone(), Some(begin()));
        let flight = Flight { path, flights, look, landed: false };
        self.disk.run(Box::new(flight));
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

/// A look that others can join.
struct Flight<T, L> {
    path: Arc<str>,
    flights: Arc<Flights<T>>,
    /// Until it is taken.
    look: Option<L>,
    /// It is in the table no more; another one may be.
    landed: bool,
}

impl<T, L> Flight<T, L> {
    /// From here on nobody joins it. Those who did.
    fn land(&mut self) -> Waiters<T> {
        if std::mem::replace(&mut self.landed, true) {
            return Vec::new();
        }
        self.flights.lock().remove(&self.path).unwrap_or_default()
    }
}

impl<T, L> Drop for Flight<T, L> {
    fn drop(&mut self) {
        drop(self.land()); // if it has panicked, or was never taken
    }
}

impl<T, L> Job for Flight<T, L>
where
    T: Clone + Send,
    L: FnOnce() -> io::Result<T> + Send,
{
    fn is_wanted(&mut self) -> bool {
        let mut flights = self.flights.lock();
        let waiters = flights.get(&self.path).filter(|_| !self.landed);
        let wanted = waiters.is_some_and(|w| w.iter().any(|waiter| !waiter.is_closed()));
        if !wanted && !std::mem::replace(&mut self.landed, true) {
            flights.remove(&self.path);
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

impl<T> Flights<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Waiters<T>>> {
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
            looks.join(path, || {
                let (taken, hold) = (taken.clone(), hold.clone());
                move || {
                    hold.wait();
                    Ok(taken.fetch_add(1, Ordering::SeqCst))
                }
            })
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
        assert!(looks.flights.lock().is_empty());
    }

    #[tokio::test]
    async fn an_error_is_everybody_s_and_so_is_a_panic() {
        let looks = Looks::<()>::default();
        let hold = Arc::new(Barrier::new(2));
        for panics in [false, true] {
            let join = || {
                looks.join("/a", || {
                    let hold = hold.clone();
                    move || {
                        hold.wait();
                        assert!(!panics, "a fault of the backend");
                        Err(io::Error::from_raw_os_error(5))
                    }
                })
            };
            let (a, b) = (join(), join());
            hold.wait();
            for answer in [a, b] {
                match answer.await {
                    Ok(answer) => assert_eq!(answer.unwrap_err().raw_os_error(), Some(5)),
                    Err(_) => assert!(panics),
                }
            }
            assert!(looks.flights.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn whoever_comes_when_all_others_have_left_gets_an_answer() {
        let looks = Looks::default();
        for n in 0..1000 {
            drop(looks.join("/a", || move || Ok(n)));
            let answer = looks.join("/a", || move || Ok(n)).await;
            assert_eq!(answer.unwrap().unwrap(), n);
        }
    }
}
