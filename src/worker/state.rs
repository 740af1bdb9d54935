//! What a pool knows: who waits, who works, who is stuck, and the figures of it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::Waker,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::job::Job;

/// The number of a worker thread; its name is `worker-<number>`.
pub(super) type Id = usize;

/// How the pool is doing, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers that take requests, busy ones included.
    pub workers: usize,
    /// Workers that are at a request now, those written off not included.
    pub busy: usize,
    /// Requests that wait for a worker.
    pub queued: usize,
    /// Workers that are stuck now: written off, and not come back.
    pub stuck: usize,
    /// Workers written off since the start.
    pub written_off: u64,
    /// Requests that workers have finished since the start, panics and errors included.
    pub served: u64,
    /// Panics of the application since the start.
    pub panics: u64,
}

/// What the builder was told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) workers: usize,
    pub(super) queue: usize,
    pub(super) queue_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) max_written_off: usize,
}

/// Who is doing what; behind the pool's lock.
#[derive(Default)]
pub(super) struct State {
    /// Oldest first. Requests that nobody waits for stay until their turn, or until they are half.
    pub(super) queue: VecDeque<Arc<Job>>,
    /// How many of them nobody waits for.
    pub(super) forgotten: usize,
    /// Workers with nothing to do. The last one to come is woken first: its caches are warm.
    pub(super) idle: Vec<(Id, Waker)>,
    pub(super) running: Vec<Running>,
    /// Workers that were written off and have not come back.
    pub(super) stuck: Vec<Id>,
    /// Workers that take work: all but the stuck.
    pub(super) live: usize,
    /// Threads that have not ended: live, stuck, and the watch.
    pub(super) threads: usize,
    /// Places taken away with stuck workers, to be given back with their replacements.
    pub(super) owed: usize,
    /// Until when the watch sleeps; `None` if until it is woken.
    pub(super) watch_until: Option<Instant>,
    pub(super) closed: bool,
    pub(super) next_id: Id,
    pub(super) handles: Vec<JoinHandle<()>>,
    pub(super) served: u64,
    pub(super) panics: u64,
    pub(super) written_off: u64,
}

impl State {
    /// Counts a worker that is about to start, and gives it a number.
    pub(super) fn joined(&mut self) -> Id {
        self.live += 1;
        self.threads += 1;
        self.next_id += 1;
        self.next_id - 1
    }

    /// After the queue was changed elsewhere than at its front.
    pub(super) fn count_forgotten(&mut self) {
        self.forgotten = self.queue.iter().filter(|job| !job.is_queued()).count();
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            workers: self.live,
            busy: self.running.len(),
            queued: self.queue.len() - self.forgotten.min(self.queue.len()),
            stuck: self.stuck.len(),
            written_off: self.written_off,
            served: self.served,
            panics: self.panics,
        }
    }
}

/// A request that a worker has begun.
pub(super) struct Running {
    pub(super) id: Id,
    pub(super) job: Arc<Job>,
    /// How long it may take.
    pub(super) allowed: Duration,
    /// When the caller is told that it takes too long; `None` once it was.
    pub(super) cut_at: Option<Instant>,
    /// When the worker is taken for stuck.
    pub(super) write_off_at: Instant,
}
