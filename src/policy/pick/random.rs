//! `PowerOfTwoChoices`: the better of two endpoints at random.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Candidates, Pick};

/// Takes the less loaded of two endpoints drawn at random, as seen by requests in flight and weight.
///
/// It looks at two candidates as a rule, and nearly balances as well as
/// [`LeastOutstanding`](super::LeastOutstanding); several gateways that use it do not all run to the
/// same endpoint.
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
    state: AtomicU64,
}

impl PowerOfTwoChoices {
    /// Draws from a random seed.
    pub fn new() -> Self {
        Self::with_seed(RandomState::new().hash_one(0))
    }

    /// Draws the same sequence each time, for tests.
    pub const fn with_seed(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// The next number of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
    /// generators", 2014.
    fn next(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        // Relaxed: each caller gets another number, which guards no other memory.
        let z = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Default for PowerOfTwoChoices {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for PowerOfTwoChoices {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        let n = candidates.len();
        if n < 2 {
            return candidates.eligible_from(0);
        }
        let random = self.next();
        // Two halves of the number, each scaled to its range: Lemire's multiplication, whose bias is
        // below n / 2^32.
        let draw = |bits: u64, n: usize| (((bits & 0xffff_ffff) * n as u64) >> 32) as usize;
        let first = draw(random, n);
        let second = draw(random >> 32, n - 1);
        let second = second + usize::from(second >= first); // distinct from the first
        let (a, b) = (candidates.get(first), candidates.get(second));
        match (a.is_eligible(), b.is_eligible()) {
            (true, true) => Some(if b.is_less_loaded_than(&a) { second } else { first }),
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => candidates.eligible_from(first),
        }
    }
}
