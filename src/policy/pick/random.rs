//! `Random`: an endpoint at random.

use super::{
    Candidates, Pick, Prepared,
    alias::AliasTable,
    rng::{Rng, scale},
    shares,
};

/// Picks a random endpoint by weight.
///
/// It uses neither load nor a rotation, so independent gateways do not synchronize.
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
    /// Creates the policy with a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new() }
    }

    /// Creates the policy with a fixed seed, for tests.
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
        } else if let Some(table) = candidates.prepared::<AliasTable>() {
            shares::pick(candidates, next, |bits| table.get(bits))
        } else {
            let table = AliasTable::new(candidates);
            shares::pick(candidates, next, |bits| table.get(bits))
        }
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        if candidates.is_uniform() {
            return Prepared::default();
        }
        Prepared::new(AliasTable::new(candidates))
    }
}
