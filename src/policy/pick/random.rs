//! `Random`: an endpoint at random.

use super::{
    Candidates, Pick, Prepared,
    rng::{Rng, scale},
    shares::{self, Shares},
};

/// Takes an endpoint at random, by weight.
///
/// It knows neither load nor turns, so gateways that know nothing of each other do not act in step.
/// [`PowerOfTwoChoices`](super::PowerOfTwoChoices) costs nearly as little and balances much better.
///
/// ```
/// use vestibule::policy::pick::{Candidate, Candidates, Pick, Random};
///
/// let servers = [Candidate::new("a"), Candidate::new("b")];
/// assert!(Random::new().pick(Candidates::new(&servers)).unwrap() < 2);
/// ```
#[derive(Debug)]
pub struct Random {
    rng: Rng,
}

impl Random {
    /// Draws from a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new() }
    }

    /// Draws the same sequence each time, for tests.
    pub const fn with_seed(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for Random {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len();
        let next = || self.rng.next();
        if candidates.is_uniform() {
            shares::pick(candidates, next, |bits| (n > 0).then(|| scale(bits, n)))
        } else if let Some(shares) = candidates.prepared::<Shares>() {
            shares::pick(candidates, next, |bits| shares.random(bits))
        } else {
            let shares = Shares::new(candidates);
            shares::pick(candidates, next, |bits| shares.random(bits))
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        if candidates.is_uniform() {
            return Prepared::default();
        }
        Prepared::new(Shares::new(candidates))
    }
}
