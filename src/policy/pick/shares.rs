//! `Shares`: the endpoint of a turn, by weight.

use super::{Candidate, Candidates, rng::mix};

/// Turns that are tried before the policy counts the eligible endpoints: 64.
const MAX_TURNS: usize = 64;

/// The turns of one cycle, one for each unit of weight.
#[derive(Debug)]
pub(super) struct Shares {
    /// The number of turns of all endpoints up to and including this one.
    ends: Vec<u64>,
    /// The endpoint of the first position of each block of `1 << shift` positions, so that a search covers the
    /// endpoints of one block: a search of 1,000 endpoints is ten branches that are often predicted wrongly.
    starts: Vec<u32>,
    shift: u32,
    total: u64,
    /// Coprime to `total` and close to `total` divided by the golden ratio, so that its multiples visit every
    /// position once a cycle, and successive positions are far apart.
    stride: u64,
}

impl Shares {
    pub(super) fn new(candidates: Candidates<'_>) -> Self {
        let mut total = 0;
        let ends = candidates.iter().map(|candidate| {
            total += u64::from(candidate.weight.max(1));
            total
        });
        Self::of(ends.collect(), total)
    }

    fn of(ends: Vec<u64>, total: u64) -> Self {
        // About as many blocks as endpoints, or up to twice as many.
        let shift = (total / (ends.len() as u64).max(1)).checked_ilog2().unwrap_or(0);
        let first = |block: u64| ends.partition_point(|&end| end <= block << shift) as u32;
        let starts = (0..=(total >> shift) + 1).map(first).collect();
        Self { ends, starts, shift, total, stride: stride(total) }
    }

    /// Returns the endpoint of a position, which is below the total.
    fn at(&self, position: u64) -> usize {
        let block = (position >> self.shift) as usize;
        let [first, last] = [block, block + 1].map(|block| self.starts[block] as usize);
        first + self.ends[first..last].partition_point(|&end| end <= position)
    }

    /// Returns the endpoint of a turn in the smooth order.
    pub(super) fn smooth(&self, turn: u64) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let position = match turn.checked_mul(self.stride) {
            Some(product) => product % self.total,
            // Seldom: a division of 128 bits takes longer than all the rest.
            None => {
                let product = u128::from(turn) * u128::from(self.stride);
                (product % u128::from(self.total)) as u64
            }
        };
        Some(self.at(position))
    }
}

/// Returns the first eligible endpoint in a sequence of turns. `next` returns the number of a turn, and `owner` its
/// endpoint. An endpoint in a slow start skips a part of its turns.
pub(super) fn pick(
    candidates: Candidates<'_>,
    mut next: impl FnMut() -> u64,
    owner: impl Fn(u64) -> Option<usize>,
) -> Option<usize> {
    let mut turn = 0;
    for _ in 0..MAX_TURNS {
        turn = next();
        let index = owner(turn)?;
        let candidate = candidates.get(index);
        if candidate.is_eligible() && takes_turn(&candidate, turn) {
            return Some(index);
        }
    }
    among_eligible(candidates, mix(turn))
}

fn takes_turn(candidate: &Candidate<'_>, turn: u64) -> bool {
    candidate.ramp >= 1000 || mix(turn) % 1000 < u64::from(candidate.ramp)
}

/// Returns an eligible endpoint by weight, for when most endpoints are not eligible. It checks all of them.
fn among_eligible(candidates: Candidates<'_>, number: u64) -> Option<usize> {
    let eligible = || candidates.iter().enumerate().filter(|(_, c)| c.is_eligible());
    let total: u64 = eligible().map(|(_, c)| c.effective_weight()).sum();
    let mut left = number.checked_rem(total)?;
    for (index, candidate) in eligible() {
        match left.checked_sub(candidate.effective_weight()) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    // Endpoints may have become ineligible between the two passes.
    candidates.eligible_from(0)
}

fn stride(total: u64) -> u64 {
    /// The golden ratio's inverse, times 2^32.
    const INVERSE_PHI: u128 = 2_654_435_769;
    let ideal = (u128::from(total) * INVERSE_PHI) >> 32;
    let ideal = u64::try_from(ideal).expect("less than the total").max(1);
    (ideal..).find(|&stride| gcd(stride, total) == 1).expect("total + 1 is coprime to it")
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycle_gives_each_endpoint_its_weight_and_spreads_its_turns() {
        let mut candidates = ["a", "b", "c", "d"].map(Candidate::new);
        for (candidate, weight) in candidates.iter_mut().zip([50, 30, 19, 1]) {
            candidate.weight = weight;
        }
        let shares = Shares::new(Candidates::new(&candidates));
        let turns: Vec<usize> = (0..100).filter_map(|turn| shares.smooth(turn)).collect();
        for (index, candidate) in candidates.iter().enumerate() {
            let count = turns.iter().filter(|&&t| t == index).count();
            assert_eq!(count, candidate.weight as usize);
        }
        // Each window of ten turns has five of `a`, give or take one.
        for window in turns.windows(10) {
            let count = window.iter().filter(|&&t| t == 0).count();
            assert!((4..=6).contains(&count), "{window:?}");
        }
    }

    #[test]
    fn stride_visits_all_positions_of_any_total() {
        for total in 1..200 {
            let shares = Shares::of((1..=total).collect(), total);
            let mut seen: Vec<usize> = (0..total).filter_map(|turn| shares.smooth(turn)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..total as usize), "{total}");
        }
        let none = Shares::new(Candidates::new(&[]));
        assert_eq!(none.smooth(1), None);
    }

    #[test]
    fn position_belongs_to_the_first_endpoint_that_ends_behind_it() {
        let many: Vec<u32> = (0..1000).map(|index| index % 7 * index).collect();
        for weights in [
            &[1][..],
            &[5, 5, 5],
            &[1, 2, 3, 4],
            &[1, 1_000_000, 1],
            &[u32::MAX, 1, u32::MAX],
            &many,
        ] {
            let candidate = |&weight: &u32| Candidate { weight, ..Candidate::new("x") };
            let candidates: Vec<_> = weights.iter().map(candidate).collect();
            let shares = Shares::new(Candidates::new(&candidates));
            let bounds = shares.ends.iter().flat_map(|&end| [end - 1, end, end + 1]);
            for position in [0].into_iter().chain(bounds).filter(|&p| p < shares.total) {
                let owner = shares.ends.iter().position(|&end| end > position);
                assert_eq!(Some(shares.at(position)), owner, "{position} of {weights:?}");
            }
        }
    }

    #[test]
    fn turns_follow_the_weights_beyond_products_of_64_bits() {
        let candidates =
            [1, 3].map(|part| Candidate { weight: part * (u32::MAX / 3), ..Candidate::new("x") });
        let shares = Shares::new(Candidates::new(&candidates));
        // The first product of turn and stride that has more than 64 bits.
        let first = u64::MAX / shares.stride + 1;
        for from in [0, first - 500, first, u64::MAX - 1000] {
            let second = (from..from + 1000).filter(|&turn| shares.smooth(turn) == Some(1));
            let second = second.count();
            assert!((749..=751).contains(&second), "{second} from {from}");
        }
    }
}
