//! `First`: the first endpoint below its limit.

use super::{Candidates, Pick};

/// Picks the first eligible endpoint in the order of the set, so that the others get only what exceeds its limit.
///
/// An endpoint at its own limit of requests in flight is not available. So requests fill one endpoint after the other
/// (bin packing), and unused ones at the end can be stopped. For endpoints without such limits, [`fill`](Self::fill)
/// sets the number of requests before the next endpoint is used.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, First, Pick};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b")];
/// let policy = First::new().fill(8);
/// servers[0].in_flight = 7;
/// assert_eq!(policy.pick(Candidates::new(&servers)), Some(0));
/// servers[0].in_flight = 8;
/// assert_eq!(policy.pick(Candidates::new(&servers)), Some(1));
/// servers[1].in_flight = 9;
/// assert_eq!(policy.pick(Candidates::new(&servers)), Some(0), "all are full: the least loaded one");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct First {
    fill: usize,
}

impl First {
    /// Creates the policy without a limit of its own.
    pub const fn new() -> Self {
        Self { fill: usize::MAX }
    }

    /// Sets how many requests for each unit of weight an endpoint gets before the next one is used. At least 1.
    /// Default: no limit.
    #[must_use]
    pub const fn fill(mut self, requests: usize) -> Self {
        self.fill = if requests == 0 { 1 } else { requests };
        self
    }
}

impl Default for First {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for First {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let mut least = None;
        for (index, candidate) in candidates.iter().enumerate() {
            if !candidate.is_eligible() {
                continue;
            }
            if candidate.in_flight < self.fill.saturating_mul(candidate.weight.max(1) as usize) {
                return Some(index);
            }
            if least.is_none_or(|(_, best)| candidate.is_less_loaded_than(&best)) {
                least = Some((index, candidate));
            }
        }
        least.map(|(index, _)| index)
    }
}
