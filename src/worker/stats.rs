//! `Stats`: figures of a pool.

use std::time::Duration;

/// The figures of a pool at a point in time.
///
/// ```
/// use vestibule::{Response, worker};
///
/// let threads = worker::threads(2, || worker::blocking(|_request| Response::new("hello"))).start()?;
/// let stats = threads.stats();
/// assert_eq!((stats.workers, stats.busy, stats.queued), (2, 0, 0));
/// # Ok::<_, vestibule::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Workers that are idle or run a request. Fewer than were started while some are being restarted.
    pub workers: usize,
    /// Workers that run a request, abandoned ones excluded.
    pub busy: usize,
    /// Requests that wait for a worker.
    pub queued: usize,
    /// Workers whose request has exceeded its timeout and not ended: abandoned ones, and those that cannot be
    /// abandoned because of [`max_abandoned`](super::ThreadsBuilder::max_abandoned).
    pub stuck: usize,
    /// The number of workers that were abandoned since the start.
    pub abandoned: u64,
    /// Requests that workers have finished since the start; panics and errors count.
    pub served: u64,
    /// Requests that were answered with an error without being run, since the start: there was no
    /// permit or no worker in time, or the pool was closed.
    pub refused: u64,
    /// Requests whose caller left before a worker began them, since the start; they were not run.
    pub cancelled: u64,
    /// Panics of the application since the start, and worker processes that ended in a request.
    pub panics: u64,
    /// Workers that were replaced because they had reached a limit of their requests, age or memory, or were forked
    /// before the current mould was ready, since the start.
    pub recycled: u64,
    /// How often a worker has become the mould of the others since the start, see
    /// [`refork_after`](super::ProcessesBuilder::refork_after).
    pub reforks: u64,
    /// Workers that were ready and have exited without being asked to, since the start.
    pub unexpected_exits: u64,
    /// The generation of the workers: 0, and a higher one after each reload.
    pub generation: u64,
    /// Total time in the queue of all requests that were begun since the start.
    pub queue_wait: Duration,
    /// The time since the oldest waiting request was queued; 0 if none waits.
    pub oldest_wait: Duration,
}
