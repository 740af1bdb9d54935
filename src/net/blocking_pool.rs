//! A bounded pool of blocking threads per runtime, for work that may wait for a disk.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::runtime::{Handle, Id};

/// The most threads of one runtime, 32: the queue depth of an ordinary disk. A disk that hangs leaves the
/// runtime's other blocking threads alone.
const MAX_THREADS: usize = 32;

/// How long an idle thread waits for the next job. Without it most jobs start a thread, since the thread of
/// the last one is not idle in the runtime's pool yet.
const LINGER: Duration = Duration::from_millis(5);

/// Jobs that may wait before the unwanted ones are dropped.
const PRUNE_THRESHOLD: usize = 64;

/// Work that may block.
pub(crate) trait Job: Send {
    /// Whether somebody still waits for the result. A job that is not wanted is dropped, which frees what it
    /// holds.
    fn is_wanted(&mut self) -> bool;
    /// Does the work. A panic ends this job only.
    fn run(self: Box<Self>);
}

/// Runs jobs in order, on blocking threads of the runtime that submits them.
///
/// Runtimes share nothing: one that is busy, or shuts down, delays no other.
#[derive(Default)]
pub(crate) struct BlockingPool(Mutex<HashMap<Id, Weak<Threads>>>);

/// The threads of one runtime, and the jobs that wait for one. The threads own it.
#[derive(Default)]
struct Threads {
    queue: Mutex<Queue>,
    /// Wakes an idle thread.
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Job>>,
    /// The unwanted jobs are dropped at this length: twice the wanted ones of the last time.
    prune_at: usize,
    /// Threads that were asked for and have not ended.
    running: usize,
    /// Of those, the ones that wait for a job. Each takes one when it wakes.
    idle: usize,
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingPool").finish_non_exhaustive()
    }
}

impl BlockingPool {
    /// Submits a job. It is dropped without having run if its result is no longer wanted, or if the runtime shuts
    /// down.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn run(&self, job: Box<dyn Job>) {
        let runtime = Handle::current();
        let threads = self.threads(runtime.id());
        let mut queue = threads.lock();
        let unwanted = queue.push(job);
        let has_thread = queue.waiting.len() <= queue.idle;
        let starts_thread = !has_thread && queue.running < MAX_THREADS;
        queue.running += usize::from(starts_thread);
        drop(queue);
        drop(unwanted);
        if has_thread {
            threads.more.notify_one();
        } else if starts_thread {
            let thread = Thread { of: threads, has_ended: false };
            runtime.spawn_blocking(move || thread.run());
        }
    }

    fn threads(&self, runtime: Id) -> Arc<Threads> {
        let mut by_runtime = lock(&self.0);
        if let Some(threads) = by_runtime.get(&runtime).and_then(Weak::upgrade) {
            return threads;
        }
        by_runtime.retain(|_, threads| threads.strong_count() > 0);
        let threads = Arc::new(Threads::default());
        by_runtime.insert(runtime, Arc::downgrade(&threads));
        threads
    }
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

/// Nothing panics while a lock is held but a job that is asked whether it is wanted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Adds a job. Returns those whose results are no longer wanted, once there are many.
    fn push(&mut self, job: Box<dyn Job>) -> Vec<Box<dyn Job>> {
        self.waiting.push_back(job);
        if self.waiting.len() <= self.prune_at.max(PRUNE_THRESHOLD) {
            return Vec::new();
        }
        let mut unwanted = Vec::new();
        for mut job in std::mem::take(&mut self.waiting) {
            if job.is_wanted() {
                self.waiting.push_back(job);
            } else {
                unwanted.push(job);
            }
        }
        self.prune_at = 2 * self.waiting.len();
        unwanted
    }
}

/// One of the threads, counted in [`Queue::running`] until it ends.
struct Thread {
    of: Arc<Threads>,
    has_ended: bool,
}

impl Thread {
    fn run(mut self) {
        while let Some(mut job) = self.next() {
            // What the job holds may panic when it is dropped, too.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if job.is_wanted() {
                    job.run();
                }
            }));
        }
    }

    /// Returns the next job. If none comes within [`LINGER`] the thread ends, under the same lock: no job
    /// that is submitted from then on counts on it.
    fn next(&mut self) -> Option<Box<dyn Job>> {
        let mut queue = self.of.lock();
        if queue.waiting.is_empty() {
            queue.idle += 1;
            let is_empty = |queue: &mut Queue| queue.waiting.is_empty();
            let waited = self.of.more.wait_timeout_while(queue, LINGER, is_empty);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
        }
        let job = queue.waiting.pop_front();
        if job.is_none() {
            queue.running -= 1;
            self.has_ended = true;
        }
        job
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // The runtime shut down before the thread began. Without threads the jobs would wait forever.
        let mut queue = self.of.lock();
        queue.running -= 1;
        let dropped =
            if queue.running == 0 { std::mem::take(&mut queue.waiting) } else { VecDeque::new() };
        drop(queue);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use tokio::{runtime::Builder, sync::oneshot};

    use super::*;

    /// A job that is wanted while the receiver of its answer exists.
    struct Asked<F> {
        work: F,
        answer: oneshot::Sender<()>,
    }

    impl<F: FnOnce() + Send> Job for Asked<F> {
        fn is_wanted(&mut self) -> bool {
            !self.answer.is_closed()
        }

        fn run(self: Box<Self>) {
            (self.work)();
            let _ = self.answer.send(());
        }
    }

    fn ask(pool: &BlockingPool, work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        pool.run(Box::new(Asked { work, answer }));
        answered
    }

    fn running(pool: &BlockingPool) -> usize {
        pool.threads(Handle::current().id()).lock().running
    }

    #[tokio::test]
    async fn pool_runs_all_jobs_on_a_bounded_number_of_threads() {
        let pool = BlockingPool::default();
        // Passed by all threads at once: there are that many.
        let together = Arc::new(Barrier::new(MAX_THREADS));
        let mut answers = Vec::new();
        for _ in 0..10 * MAX_THREADS {
            let together = together.clone();
            answers.push(ask(&pool, move || {
                together.wait();
            }));
            assert!(running(&pool) <= MAX_THREADS);
        }
        for answer in answers {
            answer.await.unwrap();
        }
        while running(&pool) > 0 {
            tokio::task::yield_now().await;
        }
        ask(&pool, || ()).await.unwrap();
    }

    #[tokio::test]
    async fn panic_ends_its_own_job_only() {
        let pool = BlockingPool::default();
        let hold = Arc::new(Barrier::new(MAX_THREADS + 1));
        let mut held = Vec::new();
        for _ in 0..MAX_THREADS {
            let hold = hold.clone();
            held.push(ask(&pool, move || {
                hold.wait();
                panic!("a fault of the file system")
            }));
        }
        drop(ask(&pool, || unreachable!("it is not wanted")));
        let last = ask(&pool, || ());
        hold.wait();
        for answer in held {
            assert!(answer.await.is_err());
        }
        last.await.unwrap();
    }

    #[tokio::test]
    async fn unwanted_jobs_are_dropped_while_all_threads_hang() {
        let pool = BlockingPool::default();
        let hold = Arc::new(Barrier::new(MAX_THREADS + 1));
        let held: Vec<_> = (0..MAX_THREADS)
            .map(|_| hold.clone())
            .map(|hold| {
                ask(&pool, move || {
                    hold.wait();
                })
            })
            .collect();
        let (file, wanted) = (Arc::new(()), Arc::new(()));
        let hold_on = |what: &Arc<()>| {
            let what = what.clone();
            move || drop(what)
        };
        let last = ask(&pool, hold_on(&wanted));
        for _ in 0..100 * PRUNE_THRESHOLD {
            drop(ask(&pool, hold_on(&file)));
        }
        let kept = Arc::strong_count(&file);
        assert!(kept <= 2 * PRUNE_THRESHOLD, "{kept}");
        assert_eq!(Arc::strong_count(&wanted), 2);
        hold.wait();
        for answer in held {
            answer.await.unwrap();
        }
        last.await.unwrap();
    }

    #[test]
    fn jobs_of_a_runtime_that_has_shut_down_are_dropped() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let pool = BlockingPool::default();
        let _entered = handle.enter();
        let mut answer = ask(&pool, || ());
        assert_eq!(answer.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(running(&pool), 0);
    }

    #[test]
    fn runtime_without_free_threads_delays_no_other() {
        let pool = BlockingPool::default();
        let busy = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (end, ends) = mpsc::channel::<()>();
        let blocked = busy.spawn_blocking(move || ends.recv().is_err());
        let first: Vec<_> = {
            let _entered = busy.enter();
            (0..2 * MAX_THREADS).map(|_| ask(&pool, || ())).collect()
        };
        let other = Builder::new_current_thread().enable_time().build().unwrap();
        other.block_on(async {
            let answer = tokio::time::timeout(Duration::from_secs(20), ask(&pool, || ())).await;
            answer.expect("it waits for the other runtime's threads").unwrap();
        });
        drop(other); // which waits for its own threads only
        drop(end);
        assert!(busy.block_on(blocked).unwrap());
        busy.block_on(async {
            for answer in first {
                answer.await.unwrap();
            }
        });
    }
}
