//! `LeastOutstanding`: the endpoint with the fewest requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidate, Candidates, Pick};

/// Picks the endpoint with the fewest requests in flight relative to its weight.
///
/// It rotates among equals, so that idle endpoints share the requests. It checks every candidate: with hundreds of
/// them, [`PowerOfTwoChoices`](super::PowerOfTwoChoices) costs less.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, LeastOutstanding, Pick};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b")];
/// (servers[0].in_flight, servers[1].in_flight) = (5, 2);
/// assert_eq!(LeastOutstanding::new().pick(Candidates::new(&servers)), Some(1));
/// servers[0].weight = 4; // six requests at weight 4 are less than three at weight 1
/// assert_eq!(LeastOutstanding::new().pick(Candidates::new(&servers)), Some(0));
/// ```
#[derive(Debug, Default)]
pub struct LeastOutstanding {
    turn: AtomicUsize,
}

impl LeastOutstanding {
    /// Creates the policy. Its rotation begins with the first endpoint.
    pub const fn new() -> Self {
        Self { turn: AtomicUsize::new(0) }
    }
}

impl Pick for LeastOutstanding {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len();
        // Relaxed: the counter does not order access to other memory.
        let first = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(n)?;
        let mut best: Option<(usize, Candidate<'_>)> = None;
        for index in (first..n).chain(0..first) {
            let candidate = candidates.get(index);
            let is_better = best.is_none_or(|(_, best)| candidate.is_less_loaded_than(&best));
            if candidate.is_eligible() && is_better {
                best = Some((index, candidate));
            }
        }
        best.map(|(index, _)| index)
    }
}
