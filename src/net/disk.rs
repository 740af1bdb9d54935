//! `Disk`: what may wait for a disk is done by a few threads.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::{Handle, Id};

/// The most threads that work at a time, 32: as many as an ordinary disk has places in its queue. A
/// disk that hangs leaves the runtime's other blocking threads to others.
const THREADS: usize = 32;

/// How long a thread waits for more. Without it, while the first hundreds of jobs are done before the
/// next ones come, the runtime begins a thread for nearly each.
const LINGER: Duration = Duration::from_millis(5);

/// So many jobs a thread does before it leaves those of other runtimes to a thread of theirs: the end of
/// its own waits for it.
const TENURE: usize = 64;

/// So many jobs may wait before those that nobody wants any more are let go.
const FEW: usize = 64;

/// What is to be done where it may block.
pub(crate) trait Job: Send {
    /// Does anybody still wait for it? Once it says no it is dropped, and what it holds is free.
    fn is_wanted(&mut self) -> bool;
    /// Does it. A panic ends the job and nothing else.
    fn run(self: Box<Self>);
}

/// Threads of the callers' runtimes, and the jobs that wait for one, in order.
#[derive(Default)]
pub(crate) struct Disk(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// With so many waiting the unwanted ones are let go: twice as many as were wanted then.
    full: usize,
    /// Threads that work, or wait for more.
    running: usize,
    /// Of those, the ones that wait. Each takes a job when it wakes.
    idle: usize,
    /// Threads that a runtime was asked for and has not begun. A runtime all of whose threads are busy
    /// may never begin one; that is no matter of the others.
    begun: HashMap<Id, usize>,
}

/// A job, and the runtime that it came from.
struct Waiting {
    runtime: Handle,
    job: Box<dyn Job>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("waiting", &self.0.lock().waiting.len()).finish()
    }
}

impl Disk {
    /// Has a thread do it, unless nobody wants it by then. Dropped undone if the runtime ends.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub(crate) fn run(&self, job: Box<dyn Job>) {
        let runtime = Handle::current();
        let mut queue = self.0.lock();
        let unwanted = queue.push(Waiting { runtime: runtime.clone(), job });
        let is_seen_to = queue.waiting.len() <= queue.idle;
        let begins = !is_seen_to && queue.begins(runtime.id());
        drop(queue);
        drop(unwanted);
        if is_seen_to {
            self.0.more.notify_one();
        } else if begins {
            Thread::begin(&self.0, &runtime);
        }
    }
}

impl Queue {
    /// Adds a job. Gives back those that nobody wants, once there are many.
    fn push(&mut self, waiting: Waiting) -> Vec<Waiting> {
        self.waiting.push_back(waiting);
        if self.waiting.len() <= self.full.max(FEW) {
            return Vec::new();
        }
        let mut unwanted = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            if waiting.job.is_wanted() {
                self.waiting.push_back(waiting);
            } else {
                unwanted.push(waiting);
            }
        }
        self.full = 2 * self.waiting.len();
        unwanted
    }

    /// May one more thread of this runtime begin? Then it is counted.
    fn begins(&mut self, runtime: Id) -> bool {
        let begun = self.begun.get(&runtime).copied().unwrap_or(0);
        let begins = self.running + begun < THREADS;
        if begins {
            self.begun.insert(runtime, begun + 1);
        }
        begins
    }

    fn no_longer_begun(&mut self, runtime: Id) {
        match self.begun.get_mut(&runtime) {
            Some(n @ 2..) => *n -= 1,
            _ => drop(self.begun.remove(&runtime)),
        }
    }
}

/// One of the threads.
struct Thread {
    shared: Arc<Shared>,
    /// The one that it was asked of.
    runtime: Id,
    runs: bool,
}

impl Thread {
    /// One that [may](Queue::begins) begin.
    fn begin(shared: &Arc<Shared>, runtime: &Handle) {
        let thread = Self { shared: shared.clone(), runtime: runtime.id(), runs: false };
        runtime.spawn_blocking(move || thread.run());
    }

    fn run(mut self) {
        let mut queue = self.shared.lock();
        queue.no_longer_begun(self.runtime);
        self.runs = true;
        if queue.running >= THREADS {
            return; // others have come first
        }
        queue.running += 1;
        drop(queue);
        let mut done = 0;
        while let Some(mut job) = self.next(done) {
            done += 1;
            // With what it holds, which may panic when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if job.is_wanted() {
                    job.run();
                }
            }));
        }
    }

    /// The next job. If none comes for this thread, it runs no more from the same moment on.
    fn next(&self, done: usize) -> Option<Box<dyn Job>> {
        let mut queue = self.shared.lock();
        if queue.waiting.is_empty() {
            queue.idle += 1;
            let empty = |queue: &mut Queue| queue.waiting.is_empty();
            let waited = self.shared.more.wait_timeout_while(queue, LINGER, empty);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
        }
        let others = queue.waiting.front().map(|first| &first.runtime);
        let other = others.filter(|of| done >= TENURE && of.id() != self.runtime).cloned();
        if other.is_none()
            && let Some(waiting) = queue.waiting.pop_front()
        {
            return Some(waiting.job);
        }
        queue.running -= 1;
        // A thread of theirs; and of ours, which may have jobs behind those, and theirs may never begin.
        let own = queue.waiting.iter().find(|waiting| waiting.runtime.id() == self.runtime);
        let own = own.map(|waiting| waiting.runtime.clone());
        let mut next: Vec<Handle> = other.into_iter().chain(own).collect();
        next.retain(|runtime| queue.begins(runtime.id()));
        drop(queue);
        for runtime in &next {
            Self::begin(&self.shared, runtime);
        }
        None
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.runs {
            return;
        }
        // It never ran: its runtime ends. What waits is for the other threads, if there are any.
        let mut queue = self.shared.lock();
        queue.no_longer_begun(self.runtime);
        let left = match (queue.running, queue.begun.len()) {
            (0, 0) => std::mem::take(&mut queue.waiting),
            _ => VecDeque::new(),
        };
        drop(queue);
        drop(left);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held but a job that is asked whether it is wanted.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use tokio::{runtime::Builder, sync::oneshot};

    use super::*;

    /// Wanted as long as somebody waits for its answer.
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

    fn ask(disk: &Disk, work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        disk.run(Box::new(Asked { work, answer }));
        answered
    }

    #[tokio::test]
    async fn jobs_are_done_by_a_few_threads_and_none_is_left() {
        let disk = Disk::default();
        // All threads at once: there are that many, and no more.
        let together = Arc::new(Barrier::new(THREADS));
        let mut answers = Vec::new();
        for _ in 0..10 * THREADS {
            let together = together.clone();
            answers.push(ask(&disk, move || {
                together.wait();
            }));
            let queue = disk.0.lock();
            assert!(queue.running + queue.begun.values().sum::<usize>() <= THREADS);
        }
        for answer in answers {
            answer.await.unwrap();
        }
        while disk.0.lock().running > 0 {
            tokio::task::yield_now().await;
        }
        ask(&disk, || ()).await.unwrap();
        assert!(disk.0.lock().begun.is_empty());
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_job_and_who_left_costs_none() {
        let disk = Disk::default();
        let hold = Arc::new(Barrier::new(THREADS + 1));
        let mut held = Vec::new();
        for _ in 0..THREADS {
            let hold = hold.clone();
            held.push(ask(&disk, move || {
                hold.wait();
                panic!("a fault of the file system")
            }));
        }
        drop(ask(&disk, || unreachable!("nobody waits for it")));
        let last = ask(&disk, || ());
        hold.wait();
        for answer in held {
            assert!(answer.await.is_err());
        }
        last.await.unwrap();
    }

    #[tokio::test]
    async fn those_who_left_hold_nothing_while_the_disk_hangs() {
        let disk = Disk::default();
        let hold = Arc::new(Barrier::new(THREADS + 1));
        let held: Vec<_> = (0..THREADS)
            .map(|_| hold.clone())
            .map(|hold| {
                ask(&disk, move || {
                    hold.wait();
                })
            })
            .collect();
        let (file, wanted) = (Arc::new(()), Arc::new(()));
        let hold_on = |what: &Arc<()>| {
            let what = what.clone();
            move || drop(what)
        };
        let last = ask(&disk, hold_on(&wanted));
        for _ in 0..100 * FEW {
            drop(ask(&disk, hold_on(&file)));
        }
        assert!(Arc::strong_count(&file) <= 2 * FEW, "{}", Arc::strong_count(&file));
        assert_eq!(Arc::strong_count(&wanted), 2);
        hold.wait();
        for answer in held {
            answer.await.unwrap();
        }
        last.await.unwrap();
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let disk = Disk::default();
        let _entered = handle.enter();
        let mut answer = ask(&disk, || ());
        assert_eq!(answer.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert!(disk.0.lock().begun.is_empty());
    }

    #[test]
    fn a_runtime_ends_though_another_one_has_more_and_more_to_do() {
        let disk = Arc::new(Disk::default());
        let one = Builder::new_current_thread().build().unwrap();
        // A thread of the first one is at work when the other begins, which never stops.
        let hold = Arc::new(Barrier::new(2));
        let held = hold.clone();
        let first = {
            let _entered = one.enter();
            ask(&disk, move || {
                held.wait();
            })
        };
        let (stop, stopped) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let feeder = std::thread::spawn({
            let disk = disk.clone();
            move || {
                let other = Builder::new_current_thread().build().unwrap();
                other.block_on(async {
                    let mut jobs = VecDeque::new();
                    while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                        while jobs.len() < 2 * THREADS {
                            jobs.push_back(ask(&disk, || ()));
                        }
                        jobs.pop_front().expect("some").await.unwrap();
                        let _ = began.send(());
                    }
                    for job in jobs {
                        job.await.unwrap();
                    }
                });
            }
        });
        begins.recv().unwrap();
        hold.wait();
        let (ended, ends) = mpsc::channel();
        let end = std::thread::spawn(move || {
            drop(one); // which waits for its threads
            ended.send(()).unwrap();
        });
        ends.recv_timeout(Duration::from_secs(20)).expect("it waits for the other one's jobs");
        end.join().unwrap();
        drop((first, stop));
        feeder.join().unwrap();
    }

    #[test]
    fn the_jobs_of_a_runtime_that_is_busy_hold_up_none_behind_them() {
        let disk = Disk::default();
        let busy = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (end, ends) = mpsc::channel::<()>();
        let blocked = busy.spawn_blocking(move || ends.recv().is_err());
        let first: Vec<_> = {
            let _entered = busy.enter();
            (0..3 * TENURE).map(|_| ask(&disk, || ())).collect()
        };
        let other = Builder::new_current_thread().enable_time().build().unwrap();
        other.block_on(async {
            let answer = tokio::time::timeout(Duration::from_secs(20), ask(&disk, || ())).await;
            answer.expect("it waits for threads that never begin").unwrap();
        });
        drop(end);
        assert!(busy.block_on(blocked).unwrap());
        busy.block_on(async {
            for answer in first {
                answer.await.unwrap();
            }
        });
    }

    #[test]
    fn a_runtime_that_is_busy_holds_up_no_other() {
        let disk = Disk::default();
        let busy = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (end, ends) = mpsc::channel::<()>();
        let blocked = busy.spawn_blocking(move || ends.recv().is_err());
        {
            let _entered = busy.enter();
            for _ in 0..2 * THREADS {
                drop(ask(&disk, || ()));
            }
        }
        let other = Builder::new_current_thread().build().unwrap();
        other.block_on(async { ask(&disk, || ()).await.unwrap() });
        drop(end);
        assert!(busy.block_on(blocked).unwrap());
    }
}
