//! `Maglev`: a table of slots that endpoints fill in turn, each in its own order.

use std::collections::BTreeMap;

use super::super::{Candidates, siphash::SipKey};

/// Slots of the table: 65,537, a prime, so that the order of each endpoint visits every slot. With more than 655
/// endpoints, the table has 655,373 slots.
pub const MAGLEV_SLOTS: usize = 65_537;

const MANY_SLOTS: usize = 655_373;
const EMPTY: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Maglev {
    /// The endpoint of each slot. Empty without endpoints.
    slots: Vec<u32>,
}

/// An endpoint's order of slots: from `next` on, in steps of `skip`.
struct Preference {
    index: u32,
    next: usize,
    skip: usize,
    weight: u64,
    filled: u64,
}

impl Preference {
    /// Returns the round in which it gets its next slot.
    fn next_round(&self, greatest: u64) -> u64 {
        // At most 2^52: a table has fewer than 2^20 slots.
        ((self.filled + 1) * greatest).div_ceil(self.weight)
    }
}

impl Maglev {
    pub(super) fn new(candidates: Candidates<'_>) -> Self {
        if candidates.is_empty() {
            return Self { slots: Vec::new() };
        }
        let size = if candidates.len() > MAGLEV_SLOTS / 100 { MANY_SLOTS } else { MAGLEV_SLOTS };
        let mut preferences = preferences(candidates, size);
        let greatest = preferences.iter().map(|p| p.weight).max().unwrap_or(1);
        let mut slots = vec![EMPTY; size];
        let mut left = size;
        // In each round the target of an endpoint grows by its weight relative to the largest one. An endpoint is looked
        // at only in the rounds in which it gets a slot: if one weight is much larger, there are nearly as many rounds as
        // slots.
        let mut rounds: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (at, p) in preferences.iter().enumerate() {
            rounds.entry(p.next_round(greatest)).or_default().push(at);
        }
        while left > 0 {
            let (_, mut round) = rounds.pop_first().expect("every endpoint has a next round");
            round.sort_unstable(); // as they came from several rounds
            for at in round {
                let p = &mut preferences[at];
                while slots[p.next] != EMPTY {
                    p.next = (p.next + p.skip) % size;
                }
                slots[p.next] = p.index;
                p.filled += 1;
                left -= 1;
                if left == 0 {
                    break;
                }
                rounds.entry(p.next_round(greatest)).or_default().push(at);
            }
        }
        Self { slots }
    }

    /// Returns the endpoint of the slot of `hash`, or of the slot `step` places after that.
    pub(super) fn owner(&self, hash: u64, step: usize) -> Option<usize> {
        let size = self.slots.len();
        if size == 0 {
            return None;
        }
        let first = ((u128::from(hash) * size as u128) >> 64) as usize;
        Some(self.slots[(first + step) % size] as usize)
    }
}

/// Returns the preferences in the order of the keys, so that the result does not depend on the order of the set.
fn preferences(candidates: Candidates<'_>, size: usize) -> Vec<Preference> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_unstable_by_key(|&index| candidates.get(index).key);
    let preference = |index| {
        let candidate = candidates.get(index);
        let hash = SipKey::fixed().hash128(candidate.key.as_bytes());
        let part = |at: usize| {
            let bytes = hash[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        Preference {
            index: index as u32,
            next: (part(0) % size as u64) as usize,
            skip: (part(8) % (size as u64 - 1)) as usize + 1,
            weight: candidate.weight.max(1).into(),
            filled: 0,
        }
    };
    order.into_iter().map(preference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pick::Candidate;

    fn table(weights: &[u32]) -> Vec<u32> {
        let keys: Vec<_> = (0..weights.len()).map(|index| index.to_string()).collect();
        let candidate = |(key, &weight)| Candidate { weight, ..Candidate::new(key) };
        let candidates: Vec<_> =
            keys.iter().map(String::as_str).zip(weights).map(candidate).collect();
        Maglev::new(Candidates::new(&candidates)).slots
    }

    /// Fills a table round by round, as in the paper.
    fn in_rounds(weights: &[u32]) -> Vec<u32> {
        let keys: Vec<_> = (0..weights.len()).map(|index| index.to_string()).collect();
        let candidates: Vec<_> = keys.iter().map(|key| Candidate::new(key)).collect();
        let mut preferences = preferences(Candidates::new(&candidates), MAGLEV_SLOTS);
        let greatest = u64::from(*weights.iter().max().unwrap());
        let (mut slots, mut left) = (vec![EMPTY; MAGLEV_SLOTS], MAGLEV_SLOTS);
        for round in 1.. {
            for p in &mut preferences {
                let target = round * u64::from(weights[p.index as usize]);
                if (p.filled + 1) * greatest <= target && left > 0 {
                    while slots[p.next] != EMPTY {
                        p.next = (p.next + p.skip) % MAGLEV_SLOTS;
                    }
                    slots[p.next] = p.index;
                    p.filled += 1;
                    left -= 1;
                }
            }
            if left == 0 {
                break;
            }
        }
        slots
    }

    #[test]
    fn table_is_the_one_that_is_filled_round_by_round() {
        for weights in [&[1; 5][..], &[3, 1, 7, 7, 2], &[1000, 1, 1, 30]] {
            assert!(table(weights) == in_rounds(weights), "{weights:?}");
        }
    }

    #[test]
    fn table_of_very_different_weights_is_filled_in_few_steps() {
        let mut weights = vec![1; 2000];
        weights[7] = u32::MAX;
        assert!(table(&weights).iter().all(|&index| index == 7));
        weights[7] = 2000;
        let slots = table(&weights);
        let share = slots.iter().filter(|&&index| index == 7).count();
        assert!(share.abs_diff(MANY_SLOTS / 2) < MANY_SLOTS / 500, "{share}");
    }
}
