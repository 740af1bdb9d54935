//! `RoundRobin`: endpoints in turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidates, Pick};

/// Takes endpoints in turn. It never locks.
///
/// An endpoint of weight 3 has three turns for each one of an endpoint of weight 1; they follow each
/// other. The turns of endpoints that are not eligible are shared evenly by the others.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, Pick, RoundRobin};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b"), Candidate::new("c")];
/// servers[1].is_available = false;
/// let policy = RoundRobin::new();
/// let picks: Vec<_> = (0..4).filter_map(|_| policy.pick(Candidates::new(&servers))).collect();
/// assert_eq!(picks, [0, 2, 0, 2]);
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl RoundRobin {
    /// Begins with the first endpoint.
    pub const fn new() -> Self {
        Self { turn: AtomicUsize::new(0) }
    }

    fn uniform(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len();
        // Relaxed: the number is a turn and guards no other memory.
        let first = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(n)?;
        let picked = candidates.eligible_from(first)?;
        let skipped = if picked < first { n - first + picked } else { picked - first };
        if skipped > 0 {
            // Go on behind the one picked, or it would get the turns of those before it as well.
            self.turn.fetch_add(skipped, Ordering::Relaxed);
        }
        Some(picked)
    }

    fn weighted(&self, candidates: Candidates<'_>) -> Option<usize> {
        let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.is_eligible());
        let weight = |weight: u32| u64::from(weight.max(1));
        let total: u64 = eligible().map(|(_, c)| weight(c.weight)).sum();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
        let mut left = turn.checked_rem(total)?;
        for (index, candidate) in eligible() {
            match left.checked_sub(weight(candidate.weight)) {
                Some(rest) => left = rest,
                None => return Some(index),
            }
        }
        // Endpoints became ineligible between the two passes.
        candidates.eligible_from(0)
    }
}

impl Pick for RoundRobin {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        if candidates.is_uniform() { self.uniform(candidates) } else { self.weighted(candidates) }
    }
}

#[cfg(test)]
impl RoundRobin {
    pub(super) const fn at(turn: usize) -> Self {
        Self { turn: AtomicUsize::new(turn) }
    }
}
