//! The figures of a queue.

use std::time::Duration;

/// The figures of a queue.
///
/// With the feature `metrics` these are recorded by the crate of that name, as sums over all balancers of the process.
/// Each has the label `priority`: `high`, `normal` or `low`.
///
/// | name | type | unit | what |
/// |---|---|---|---|
/// | `vestibule_balance_queue_waiting` | gauge | requests | waiting requests |
/// | `vestibule_balance_queue_wait_seconds` | histogram | seconds | the wait of requests that got an endpoint |
/// | `vestibule_balance_queue_refused_total` | counter | requests | that found the queue full or were displaced |
/// | `vestibule_balance_queue_timed_out_total` | counter | requests | whose timeout passed |
/// | `vestibule_balance_queue_abandoned_total` | counter | requests | that left for another reason |
///
/// Each request that was queued is waiting, or counts once: as admitted, timed out, abandoned, or refused if it was
/// displaced. Those that found the queue full count as refused, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStats {
    /// Waiting requests.
    pub waiting: usize,
    /// The maximum of waiting requests.
    pub bound: usize,
    /// The timeout of waiting requests.
    pub timeout: Duration,
    /// Requests that got an endpoint after they had waited.
    pub admitted: u64,
    /// Requests that found the queue full, or were displaced from it.
    pub refused: u64,
    /// Requests whose timeout passed.
    pub timed_out: u64,
    /// Requests that left without an endpoint before their timeout: their client has gone, or there was no endpoint left
    /// to wait for.
    pub abandoned: u64,
    /// The total wait of admitted requests.
    pub total_wait: Duration,
    /// The longest wait of an admitted request.
    pub longest_wait: Duration,
    /// The time since the oldest waiting request was queued.
    pub oldest_wait: Duration,
    /// The figures by priority, that of [`Priority::High`](super::Priority::High) first.
    pub by_priority: [PriorityStats; 3],
}

/// The figures of the requests of one priority in a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PriorityStats {
    /// Waiting requests.
    pub waiting: usize,
    /// Requests that got an endpoint after they had waited.
    pub admitted: u64,
    /// Requests that found the queue full, or were displaced from it.
    pub refused: u64,
    /// Requests whose timeout passed.
    pub timed_out: u64,
    /// Requests that left without an endpoint before their timeout: their client has gone, or there was no endpoint left
    /// to wait for.
    pub abandoned: u64,
}
