//! `RoundRobin`: endpoints in turn.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    Candidates, Pick, Prepared,
    shares::{self, Shares},
};

/// Picks endpoints in turn, without a lock.
///
/// An endpoint of weight 3 has three turns for each turn of an endpoint of weight 1. Its turns are spread over the
/// cycle, as smoothly as in nginx's weighted round robin. The turns of endpoints that are not eligible are divided
/// among the others by weight.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, Pick, RoundRobin};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b"), Candidate::new("c")];
/// let policy = RoundRobin::new();
/// let picks = |servers: &[Candidate<'_>; 3], n| -> Vec<_> {
///     (0..n).filter_map(|_| policy.pick(Candidates::new(servers))).collect()
/// };
/// servers[0].weight = 2;
/// assert_eq!(picks(&servers, 4), [0, 2, 1, 0]);
/// servers[1].is_available = false;
/// assert_eq!(picks(&servers, 3), [0, 2, 0]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicU64,
}

impl RoundRobin {
    /// Creates the policy, which begins with the first endpoint.
    pub const fn new() -> Self {
        Self { turn: AtomicU64::new(0) }
    }

    fn next(&self) -> u64 {
        // Relaxed: the counter does not order access to other memory.
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

impl Pick for RoundRobin {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len() as u64;
        let next = || self.next();
        if candidates.is_uniform() {
            let owner = |turn: u64| Some(turn.checked_rem(n)? as usize);
            shares::pick(candidates, next, owner)
        } else if let Some(shares) = candidates.prepared::<Shares>() {
            shares::pick(candidates, next, |turn| shares.smooth(turn))
        } else {
            let shares = Shares::new(candidates);
            shares::pick(candidates, next, |turn| shares.smooth(turn))
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        if candidates.is_uniform() {
            return Prepared::default();
        }
        Prepared::new(Shares::new(candidates))
    }
}

#[cfg(test)]
impl RoundRobin {
    pub(super) const fn at(turn: u64) -> Self {
        Self { turn: AtomicU64::new(turn) }
    }
}
