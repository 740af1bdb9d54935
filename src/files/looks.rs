//! `Looks`: looks at the disk wait for one of a few threads.

use std::{
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, task::spawn_blocking};

/// The most threads that look for one service at a time, 32: as many as an ordinary disk has places
/// in its queue. A disk that hangs leaves the runtime's other blocking threads to others.
const THREADS: usize = 32;

/// How long a thread waits for another look. Without it, while the first hundreds of looks are over
/// before the next ones come, the runtime begins a thread for nearly each.
const LINGER: Duration = Duration::from_millis(5);

/// What is to be done where it may block.
type Job<T> = Box<dyn FnOnce() -> io::Result<T> + Send>;

/// Looks that wait, in order. There is at most one for each request.
pub(super) struct Looks<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    more: Condvar,
}

/// A look, and where its answer goes.
type Waiting<T> = (Job<T>, oneshot::Sender<io::Result<T>>);

struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    /// That are at work, about to be, or idle.
    threads: usize,
    /// Of those, the ones that wait for a look. Each takes one when it wakes.
    idle: usize,
}

impl<T> fmt::Debug for Looks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("waiting", &self.0.lock().waiting.len()).finish()
    }
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        let queue = Mutex::new(Queue { waiting: VecDeque::new(), threads: 0, idle: 0 });
        Self(Arc::new(Shared { queue, more: Condvar::new() }))
    }
}

impl<T: Send + 'static> Looks<T> {
    /// Has a thread do it, unless nobody waits for the answer by then. No answer comes if it panics.
    pub(super) fn take(
        &self,
        look: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<io::Result<T>> {
        let (answer, answered) = oneshot::channel();
        let mut queue = self.0.lock();
        queue.waiting.push_back((Box::new(look), answer));
        let is_seen_to = queue.waiting.len() <= queue.idle;
        let begins = !is_seen_to && queue.threads < THREADS;
        queue.threads += usize::from(begins);
        drop(queue);
        if is_seen_to {
            self.0.more.notify_one();
        } else if begins {
            let thread = Looker { shared: self.0.clone(), counts: true };
            spawn_blocking(move || thread.run());
        }
        answered
    }
}

/// One of the threads.
struct Looker<T> {
    shared: Arc<Shared<T>>,
    /// Among [`Queue::threads`].
    counts: bool,
}

impl<T> Looker<T> {
    fn run(mut self) {
        while let Some((look, answer)) = self.next() {
            if answer.is_closed() {
                continue; // the client has left
            }
            match catch_unwind(AssertUnwindSafe(look)) {
                Ok(result) => drop(answer.send(result)),
                Err(_panic) => drop(answer), // which tells it
            }
        }
    }

    /// The next look. If none comes, the thread counts no more from the same moment on.
    fn next(&mut self) -> Option<Waiting<T>> {
        let mut queue = self.shared.lock();
        if queue.waiting.is_empty() {
            queue.idle += 1;
            let empty = |queue: &mut Queue<T>| queue.waiting.is_empty();
            let waited = self.shared.more.wait_timeout_while(queue, LINGER, empty);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
        }
        let next = queue.waiting.pop_front();
        if next.is_none() {
            self.counts = false;
            queue.threads -= 1;
        }
        next
    }
}

impl<T> Drop for Looker<T> {
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        // It never ran: its runtime ends. What waits is for the other threads, if there are any.
        let mut queue = self.shared.lock();
        queue.threads -= 1;
        let left = match queue.threads {
            0 => std::mem::take(&mut queue.waiting),
            _ => VecDeque::new(),
        };
        drop(queue);
        drop(left);
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[tokio::test]
    async fn looks_are_taken_by_a_few_threads_and_none_is_left() {
        let looks = Looks::default();
        // All threads at once: there are that many, and no more.
        let together = Arc::new(Barrier::new(THREADS));
        let answers: Vec<_> = (0..10 * THREADS)
            .map(|n| {
                let together = together.clone();
                looks.take(move || {
                    together.wait();
                    Ok(n)
                })
            })
            .collect();
        assert_eq!(looks.0.lock().threads, THREADS);
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap().unwrap(), n);
        }
        while looks.0.lock().threads > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(looks.take(|| Ok(7)).await.unwrap().unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_look_and_who_left_costs_none() {
        let looks = Looks::<u32>::default();
        let hold = Arc::new(Barrier::new(THREADS + 1));
        let held: Vec<_> = (0..THREADS)
            .map(|_| {
                let hold = hold.clone();
                looks.take(move || {
                    hold.wait();
                    panic!("a fault of the backend")
                })
            })
            .collect();
        drop(looks.take(|| unreachable!("nobody waits for it")));
        let last = looks.take(|| Ok(1));
        hold.wait();
        for answer in held {
            assert!(answer.await.is_err());
        }
        assert_eq!(last.await.unwrap().unwrap(), 1);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let looks = Looks::<u32>::default();
        let _entered = handle.enter();
        let mut answer = looks.take(|| Ok(1));
        assert_eq!(answer.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(looks.0.lock().threads, 0);
    }
}
