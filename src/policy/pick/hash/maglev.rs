//! `Maglev`: a table of slots that endpoints fill in turn, each in its own order.

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
    weight: f64,
    /// The number of slots that it should have so far.
    target: f64,
    filled: f64,
}

impl Maglev {
    pub(super) fn new(candidates: Candidates<'_>) -> Self {
        if candidates.is_empty() {
            return Self { slots: Vec::new() };
        }
        let size = if candidates.len() > MAGLEV_SLOTS / 100 { MANY_SLOTS } else { MAGLEV_SLOTS };
        let mut preferences = preferences(candidates, size);
        let mut slots = vec![EMPTY; size];
        let mut left = size;
        // In each round the target of an endpoint grows by its weight relative to the largest one.
        while left > 0 {
            for p in &mut preferences {
                p.target += p.weight;
                if p.filled + 1.0 > p.target {
                    continue;
                }
                while slots[p.next] != EMPTY {
                    p.next = (p.next + p.skip) % size;
                }
                slots[p.next] = p.index;
                p.filled += 1.0;
                left -= 1;
                if left == 0 {
                    break;
                }
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
    let greatest = candidates.iter().map(|c| c.weight.max(1)).max().unwrap_or(1);
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
            weight: f64::from(candidate.weight.max(1)) / f64::from(greatest),
            target: 0.0,
            filled: 0.0,
        }
    };
    order.into_iter().map(preference).collect()
}
