//! The configuration of a [`Supervisor`](super::Supervisor).

use std::time::{Duration, Instant};

use super::{super::backoff::Backoff, Scale, WorkerId, after};

/// The configuration of a [`Supervisor`](super::Supervisor).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Minimum number of workers. Each fills a slot.
    pub(crate) workers: usize,
    /// The maximum number of workers, and when they are added and stopped.
    pub(crate) scale: Scale,
    /// Maximum number of abandoned workers that have not exited.
    pub(crate) max_abandoned: usize,
    pub(crate) request_timeout: Duration,
    /// Maximum time in which a worker that was replaced ends its request. `None`: its request timeout.
    pub(crate) drain_timeout: Option<Duration>,
    /// The time between the request timeout and the abandonment of a worker.
    pub(crate) grace: Duration,
    /// Pauses before a slot is filled again, by its consecutive failures.
    pub(crate) backoff: Backoff,
    /// Maximum time until a worker is ready. `None`: unlimited.
    pub(crate) start_timeout: Option<Duration>,
    /// When the back-off is replaced by a long pause. `None`: never.
    pub(crate) give_up: Option<GiveUp>,
    /// The time after which a ready worker counts as stable, so that its exit is a first failure. `None`: only a
    /// completed request ends a series of failures, which it does in any case.
    pub(crate) stable_after: Option<Duration>,
    /// When workers that have not failed are replaced.
    pub(crate) recycle: Recycle,
    /// Completed requests after which a worker becomes the mould. `None`: never.
    pub(crate) refork_after: Option<u64>,
}

impl Config {
    /// Returns the maximum number of workers.
    pub(crate) fn max_workers(&self) -> usize {
        self.workers.max(self.scale.max)
    }
}

/// When a slot whose workers keep failing is left empty for a long pause.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GiveUp {
    /// Consecutive exits without a completed request.
    pub(crate) failures: u32,
    /// The pause after the last of them.
    pub(crate) pause: Duration,
}

/// The limits at which a worker is nominated for replacement. A limit of `None` does not apply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recycle {
    /// Completed requests.
    pub(crate) requests: Option<u64>,
    /// Maximum number of further requests, random for each worker, so that workers are not nominated together.
    pub(crate) jitter: u64,
    /// Time since the worker became ready.
    pub(crate) age: Option<Duration>,
    /// Memory in bytes, as reported by [`on_memory`](super::Supervisor::on_memory).
    pub(crate) memory: Option<u64>,
    /// Maximum number of workers that are replaced at a time.
    pub(crate) at_a_time: usize,
    /// The seed of the jitter, which differs between pools.
    pub(crate) seed: u64,
}

impl Recycle {
    pub(crate) const NEVER: Self =
        Self { requests: None, jitter: 0, age: None, memory: None, at_a_time: 0, seed: 0 };

    /// Returns whether worker `id` is nominated after `served` requests.
    pub(super) fn nominates(&self, id: WorkerId, served: u64) -> bool {
        let extra = match self.jitter.checked_add(1) {
            Some(n) => mix(self.seed ^ id.number) % n,
            None => mix(self.seed ^ id.number),
        };
        self.requests.is_some_and(|requests| served >= requests.saturating_add(extra))
    }

    /// Returns when a worker that is ready at `now` exceeds the age limit.
    pub(super) fn old_at(&self, now: Instant) -> Option<Instant> {
        self.age.map(|age| after(now, age))
    }
}

/// The output function of SplitMix64, which maps neighbouring numbers to unrelated ones.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
