//! A bounded pool of threads for work that may wait for a disk.

use std::{
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

/// The maximum number of threads of a pool, 32: the queue depth of an ordinary disk. A disk that hangs blocks
/// no more than these.
const MAX_THREADS: usize = 32;

/// Idle time after which a thread exits: 10 s, as in Tokio's pool.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The queue length above which unwanted jobs are dropped.
const PRUNE_THRESHOLD: usize = 64;

/// Work that may block.
pub(crate) trait Job: Send {
    /// Returns whether a caller still waits for the result. An unwanted job is dropped, which frees its
    /// resources.
    fn is_wanted(&mut self) -> bool;
    /// Does the work. A panic ends this job only.
    fn run(self: Box<Self>);
    /// Ends a job that has not run, because no thread can be started for it. Called on the thread of a
    /// submitter, so it must not block. The default drops the job.
    fn fail(self: Box<Self>, error: &io::Error) {
        let _ = error;
    }
}

/// Starts a thread that runs the closure.
type StartThread = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// Runs jobs in order, on threads that it starts when they are needed.
///
/// It needs no runtime. Tokio's `spawn_blocking` panics if the system cannot start its first thread (at
/// `RLIMIT_NPROC`, in a full pids cgroup); here the jobs [fail](Job::fail) instead.
pub(crate) struct BlockingPool {
    threads: Arc<Threads>,
    start_thread: StartThread,
}

/// The state that the threads of a pool share.
#[derive(Default)]
struct Threads {
    queue: Mutex<Queue>,
    /// Wakes an idle thread.
    job_added: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Job>>,
    /// The length at which unwanted jobs are dropped next: twice the number of wanted jobs at the last time.
    prune_at: usize,
    /// The number of threads that are starting or running.
    running: usize,
    /// The number of threads that wait for a job. Each takes one when it wakes.
    idle: usize,
    /// Whether the pool was dropped. Then threads end when no job waits.
    is_closed: bool,
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingPool").finish_non_exhaustive()
    }
}

impl Default for BlockingPool {
    fn default() -> Self {
        Self::with_threads_by(|body| {
            thread::Builder::new().name("blocking".to_owned()).spawn(body).map(drop)
        })
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        self.threads.lock().is_closed = true;
        self.threads.job_added.notify_all();
    }
}

impl BlockingPool {
    /// Creates a pool whose threads are started by `start_thread`.
    pub(crate) fn with_threads_by(start_thread: StartThread) -> Self {
        Self { threads: Arc::default(), start_thread }
    }

    /// Creates a pool that can start no thread.
    #[cfg(test)]
    pub(crate) fn without_threads() -> Self {
        Self::with_threads_by(|_| Err(io::Error::from_raw_os_error(11))) // EAGAIN
    }

    /// Submits a job. It is dropped without having run if its result is no longer wanted.
    ///
    /// If no thread can be started, a job waits for one of the others to become free, and fails if there is
    /// none. Never panics, so it can be called in `Drop`.
    pub(crate) fn run(&self, job: Box<dyn Job>) {
        let mut queue = self.threads.lock();
        let unwanted = queue.push(job);
        let has_thread = queue.waiting.len() <= queue.idle;
        let starts_thread = !has_thread && queue.running < MAX_THREADS;
        queue.running += usize::from(starts_thread);
        drop(queue);
        drop(unwanted);
        if has_thread {
            self.threads.job_added.notify_one();
        } else if starts_thread {
            let threads = self.threads.clone();
            // Created on the new thread: if that is not started, no `Thread` is dropped and counted as ended.
            let body = move || Thread { threads, has_ended: false }.run();
            if let Err(error) = (self.start_thread)(Box::new(body)) {
                self.fail_without_threads(&error);
            }
        }
    }

    /// Runs `work`. The receiver resolves to its result, or to an error if no thread can be started; it fails
    /// if `work` panics. Dropped before the work begins, it cancels it.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<io::Result<T>> {
        let (result, receiver) = oneshot::channel();
        self.run(Box::new(Call { work, result }));
        receiver
    }

    /// Handles a thread that could not be started. Without any thread the waiting jobs would never run, so
    /// they fail.
    fn fail_without_threads(&self, error: &io::Error) {
        tracing::warn!(%error, "cannot start a thread for blocking work: requests that need one fail (RLIMIT_NPROC, or the pids limit of the cgroup)");
        let error = io::Error::new(error.kind(), format!("cannot start a thread: {error}"));
        let failed = self.threads.lock().take_stranded();
        for job in failed {
            job.fail(&error);
        }
    }
}

/// A function call as a job.
struct Call<T, W> {
    work: W,
    result: oneshot::Sender<io::Result<T>>,
}

impl<T: Send, W: FnOnce() -> T + Send> Job for Call<T, W> {
    fn is_wanted(&mut self) -> bool {
        !self.result.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { work, result } = *self;
        let _ = result.send(Ok(work()));
    }

    fn fail(self: Box<Self>, error: &io::Error) {
        let Self { result, .. } = *self;
        let _ = result.send(Err(copy_error(error)));
    }
}

/// Copies an error, so that each waiting caller gets one.
pub(crate) fn copy_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Only `Job::is_wanted` could panic while the lock is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Adds a job. If the queue is long, returns the unwanted jobs, which the caller drops.
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

    /// Counts a thread as ended. Returns the waiting jobs if it was the last one.
    fn take_stranded(&mut self) -> VecDeque<Box<dyn Job>> {
        self.running -= 1;
        if self.running == 0 { std::mem::take(&mut self.waiting) } else { VecDeque::new() }
    }
}

/// One of the threads, counted in [`Queue::running`] until it ends.
struct Thread {
    threads: Arc<Threads>,
    has_ended: bool,
}

impl Thread {
    fn run(mut self) {
        while let Some(mut job) = self.next() {
            // Dropping the job may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if job.is_wanted() {
                    job.run();
                }
            }));
        }
    }

    /// Returns the next job. If there is none within [`KEEP_ALIVE`] the thread counts as ended, under the same
    /// lock, so that no job submitted later relies on it.
    fn next(&mut self) -> Option<Box<dyn Job>> {
        let mut queue = self.threads.lock();
        if queue.waiting.is_empty() && !queue.is_closed {
            queue.idle += 1;
            let is_empty = |queue: &mut Queue| queue.waiting.is_empty() && !queue.is_closed;
            let waited = self.threads.job_added.wait_timeout_while(queue, KEEP_ALIVE, is_empty);
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
        if !self.has_ended {
            // The thread unwinds: dropping the payload of a job's panic has panicked.
            let stranded = self.threads.lock().take_stranded();
            drop(stranded);
        }
    }
}

#[cfg(test)]
mod tests;
