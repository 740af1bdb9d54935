//! `LeastOutstanding`: the endpoint with the fewest requests in flight.

use std::{
    hint::select_unpredictable,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    Candidates, Pick, Prepared,
    alias::AliasTable,
    rng::{mix, scale},
};

/// Maximum size of a set in which every endpoint is checked: 64. A check costs about 5 ns.
const MAX_EXACT: usize = 64;

/// Number of endpoints of a larger set that are checked: 4, each about 10 ns, since it is seldom in a fast cache.
const SAMPLES: u64 = 4;

/// Picks the endpoint with the fewest requests in flight relative to its weight.
///
/// It rotates among endpoints of equal load and weight, so that idle ones share the requests. Of idle endpoints with
/// different weights it picks one with the largest: others get requests when that one has some. In a set of up to 64 endpoints it checks every
/// one. In a larger set it is not exact: it checks four at random, by weight if weights differ, and all if none of these
/// is eligible.
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
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(n)?;
        sample(candidates, turn as u64)
            .or_else(|| least_loaded(candidates, (first..n).chain(0..first)))
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        if candidates.len() <= MAX_EXACT || candidates.is_uniform() {
            return Prepared::default();
        }
        Prepared::new(AliasTable::new(candidates))
    }
}

/// Returns the least loaded one of some endpoints of a large set, if one of them is eligible.
fn sample(candidates: Candidates<'_>, turn: u64) -> Option<usize> {
    let n = candidates.len();
    if n <= MAX_EXACT {
        return None;
    }
    let bits = |i| mix(turn.wrapping_mul(SAMPLES).wrapping_add(i));
    if candidates.is_uniform() {
        return least_loaded(candidates, (0..SAMPLES).map(|i| scale(bits(i), n)));
    }
    let table = candidates.prepared::<AliasTable>()?;
    least_loaded(candidates, (0..SAMPLES).filter_map(|i| table.get(bits(i))))
}

/// Returns the least loaded eligible endpoint of these, relative to the weights, the first one of equals.
fn least_loaded(candidates: Candidates<'_>, indices: impl Iterator<Item = usize>) -> Option<usize> {
    let (mut best, mut least) = (None, u64::MAX);
    for index in indices {
        let candidate = candidates.get(index);
        let load = (candidate.in_flight as f64 + 1.0) / candidate.effective_weight() as f64;
        // Positive floats have the order of their bits, which are compared without a branch: a processor would often
        // predict it wrongly, since the loads are random. Equal loads are equal floats.
        let load = load.to_bits();
        let is_better = candidate.is_eligible() & (load < least);
        best = select_unpredictable(is_better, Some(index), best);
        least = select_unpredictable(is_better, load, least);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pick::{Candidate, Source};

    /// Candidates, and whether their weights are equal.
    struct Set(Vec<Candidate<'static>>, bool);

    impl Source for Set {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn candidate(&self, index: usize) -> Candidate<'_> {
            self.0[index]
        }

        fn is_uniform(&self) -> bool {
            self.1
        }
    }

    /// Picks ten times for each unit of weight, with a request in flight for each pick. Returns the loads by weight.
    fn loads(mut set: Set) -> Vec<usize> {
        let policy = LeastOutstanding::new();
        let prepared = policy.prepare(Candidates::new(&set));
        let total: u32 = set.0.iter().map(|candidate| candidate.weight).sum();
        for _ in 0..total * 10 {
            let picked = policy.pick(Candidates::new(&set).with_prepared(&prepared)).unwrap();
            set.0[picked].in_flight += 1;
        }
        set.0.iter().map(|candidate| candidate.in_flight / candidate.weight as usize).collect()
    }

    #[test]
    fn set_up_to_the_bound_gets_exactly_the_least_loaded_endpoint() {
        let set = |n| Set(vec![Candidate::new("x"); n], true);
        assert_eq!(loads(set(MAX_EXACT)), [10; MAX_EXACT]);
        let above = loads(set(MAX_EXACT + 1));
        assert!(above.iter().any(|&load| load != 10), "a sample is not exact: {above:?}");
    }

    #[test]
    fn large_set_is_balanced_by_weight() {
        let (mut uniform, mut weighted) = (vec![Candidate::new("x"); 1000], Vec::new());
        for (index, candidate) in uniform.iter_mut().enumerate() {
            let weight = 1 + index as u32 % 4;
            weighted.push(Candidate { weight, ..*candidate });
        }
        for (set, least, most) in [(Set(uniform, true), 8, 11), (Set(weighted, false), 7, 11)] {
            let loads = loads(set);
            let (min, max) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            assert!(*min >= least && *max <= most, "{min} to {max}");
        }
    }

    #[test]
    fn large_set_with_one_eligible_endpoint_gets_that_one() {
        for is_uniform in [true, false] {
            let mut set = Set(vec![Candidate::new("x"); 1000], is_uniform);
            set.0.iter_mut().for_each(|candidate| candidate.is_available = false);
            set.0[777].is_available = true;
            assert_eq!(LeastOutstanding::new().pick(Candidates::new(&set)), Some(777));
        }
    }
}
