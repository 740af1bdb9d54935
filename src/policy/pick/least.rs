//! `LeastOutstanding`: the endpoint with the fewest requests in flight.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Candidate, Candidates, Pick};

/// Takes the endpoint with the fewest requests in flight for its weight.
///
/// Among equals it goes round, so that endpoints without load share what comes. It looks at every
/// candidate: with hundreds of them, [`PowerOfTwoChoices`](super::PowerOfTwoChoices) costs less.
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
    /// Begins with the first endpoint, if none has load.
    pub const fn new() -> Self {
        Self { turn: AtomicUsize::new(0) }
    }
}

impl Pick for LeastOutstanding {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len();
        // Relaxed: the number is a turn and guards no other memory.
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
