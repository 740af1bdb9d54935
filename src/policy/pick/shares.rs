//! `Shares`: the endpoint of a turn, by weight.

use super::{Candidate, Candidates, rng::mix};

/// Turns that are tried before the policy counts the eligible endpoints: 64.
const MAX_TURNS: usize = 64;

/// The turns of one cycle, one for each unit of weight.
#[derive(Debug)]
pub(super) struct Shares {
    /// The number of turns of all endpoints up to and including this one.
    ends: Vec<u64>,
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
        let ends: Vec<u64> = ends.collect();
        Self { ends, total, stride: stride(total) }
    }

    /// Returns the endpoint of a position, which is below the total.
    fn at(&self, position: u64) -> usize {
        self.ends.partition_point(|&end| end <= position)
    }

    /// Returns the endpoint of a turn in the smooth order.
    pub(super) fn smooth(&self, turn: u64) -> Option<usize> {
        let position = turn.checked_rem(self.total)?;
        let position = u128::from(position) * u128::from(self.stride) % u128::from(self.total);
        Some(self.at(u64::try_from(position).expect("below the total")))
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
            let shares = Shares { ends: (1..=total).collect(), total, stride: stride(total) };
            let mut seen: Vec<usize> = (0..total).filter_map(|turn| shares.smooth(turn)).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..total as usize), "{total}");
        }
        let none = Shares::new(Candidates::new(&[]));
        assert_eq!(none.smooth(1), None);
    }
}
