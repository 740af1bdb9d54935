//! `PowerOfTwoChoices`: the better one of two random endpoints.

use super::{
    Candidate, Candidates, Pick,
    rng::{Rng, scale},
};

/// Pairs that are drawn before the policy checks all candidates: 8.
const MAX_DRAWS: usize = 8;

/// Picks the less loaded one of two random endpoints, by requests in flight and weight.
///
/// It usually checks two candidates, and balances nearly as well as [`LeastOutstanding`](super::LeastOutstanding).
/// Several gateways that use it do not all pick the same endpoint.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, Pick, PowerOfTwoChoices};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b")];
/// servers[0].in_flight = 9;
/// assert_eq!(PowerOfTwoChoices::new().pick(Candidates::new(&servers)), Some(1));
/// ```
#[derive(Debug)]
pub struct PowerOfTwoChoices {
    rng: Rng,
}

impl PowerOfTwoChoices {
    /// Creates the policy with a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new() }
    }

    /// Creates the policy with a fixed seed, for tests.
    pub const fn with_seed(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }
}

impl Default for PowerOfTwoChoices {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for PowerOfTwoChoices {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        better_of_two(candidates, &self.rng, |a, b| a.is_less_loaded_than(b))
    }
}

/// Draws two eligible candidates at random. Returns the second one if it `is_better` than the first, otherwise the
/// first.
pub(super) fn better_of_two(
    candidates: Candidates<'_>,
    rng: &Rng,
    is_better: impl Fn(&Candidate<'_>, &Candidate<'_>) -> bool,
) -> Option<usize> {
    let n = candidates.len();
    if n < 2 {
        return candidates.eligible_from(0);
    }
    let mut first = 0;
    for _ in 0..MAX_DRAWS {
        let random = rng.next();
        first = scale(random, n);
        let second = scale(random >> 32, n - 1);
        let second = second + usize::from(second >= first); // distinct from the first
        let (a, b) = (candidates.get(first), candidates.get(second));
        match (a.is_eligible(), b.is_eligible()) {
            (true, true) => return Some(if is_better(&b, &a) { second } else { first }),
            (true, false) => return Some(first),
            (false, true) => return Some(second),
            (false, false) => {}
        }
    }
    candidates.eligible_from(first)
}
