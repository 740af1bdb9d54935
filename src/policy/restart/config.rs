//! Bounds of a [`Supervisor`](super::Supervisor).

use std::time::{Duration, Instant};

use super::{super::backoff::Backoff, Scale, WorkerId, after};

/// Bounds of a [`Supervisor`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Workers that are always there. Each fills a slot.
    pub(crate) workers: usize,
    /// How many more there may be.
    pub(crate) scale: Scale,
    /// Abandoned workers that have not exited, at most.
    pub(crate) max_abandoned: usize,
    pub(crate) request_timeout: Duration,
    /// How long after the request timeout a worker is abandoned.
    pub(crate) grace: Duration,
    /// Pauses before a slot is filled again, by the number of its failures in a row.
    pub(crate) backoff: Backoff,
    /// How long a worker may take to be ready, if that is bounded.
    pub(crate) start_timeout: Option<Duration>,
    /// When the back-off ends, if it does.
    pub(crate) give_up: Option<GiveUp>,
    /// How long a worker must have been ready for its exit to be the first failure of its slot, if time
    /// counts at all. A completed request counts in any case.
    pub(crate) stable_after: Option<Duration>,
    /// When workers are replaced that have not failed.
    pub(crate) recycle: Recycle,
}

/// When a slot whose workers fail is not filled again for long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GiveUp {
    /// Exits in a row with no completed request in between.
    pub(crate) failures: u32,
    /// How long after the last of them the slot is filled again.
    pub(crate) pause: Duration,
}

/// When a worker is nominated to be replaced by a new one. A limit that is `None` nominates none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recycle {
    /// Requests that it has completed.
    pub(crate) requests: Option<u64>,
    /// Each worker has up to so many requests more, so that they are not nominated together.
    pub(crate) jitter: u64,
    /// Time since it was ready.
    pub(crate) age: Option<Duration>,
    /// Bytes of memory, as [`on_memory`](super::Supervisor::on_memory) reports.
    pub(crate) memory: Option<u64>,
    /// How many are replaced at a time, at most.
    pub(crate) at_a_time: usize,
    /// Makes the jitter of one pool differ from that of another.
    pub(crate) seed: u64,
}

impl Recycle {
    pub(crate) const NEVER: Self =
        Self { requests: None, jitter: 0, age: None, memory: None, at_a_time: 0, seed: 0 };

    /// Whether worker `id` is nominated after `served` requests.
    pub(super) fn nominates(&self, id: WorkerId, served: u64) -> bool {
        let extra = match self.jitter.checked_add(1) {
            Some(n) => mix(self.seed ^ id.number) % n,
            None => mix(self.seed ^ id.number),
        };
        self.requests.is_some_and(|requests| served >= requests.saturating_add(extra))
    }

    /// When a worker that is ready at `now` is too old.
    pub(super) fn old_at(&self, now: Instant) -> Option<Instant> {
        self.age.map(|age| after(now, age))
    }
}

/// The output function of SplitMix64: neighbours give unrelated numbers.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
