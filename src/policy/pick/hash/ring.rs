//! `Ring`: a circle of hashes on which each endpoint has points.

use super::super::{Candidates, siphash::SipKey};

/// Points on the ring for each unit of an endpoint's weight: 100, with which a share differs from the fair one by about
/// a tenth.
pub const RING_POINTS: usize = 100;

/// Number of points that is exceeded only because each endpoint has at least one: 1,048,576, which take 16 MiB. With a
/// larger total weight a unit of it has fewer points.
const MAX_POINTS: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Ring {
    /// Sorted by hash.
    points: Vec<Point>,
    /// The index of the first point at or after each prefix of a hash.
    starts: Vec<u32>,
    shift: u32,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    hash: u64,
    index: u32,
}

impl Ring {
    pub(super) fn new(candidates: Candidates<'_>) -> Self {
        let weight = |weight: u32| u128::from(weight.max(1));
        let total: u128 = candidates.iter().map(|c| weight(c.weight)).sum();
        let all = (total * RING_POINTS as u128).min(MAX_POINTS as u128);
        let mut points = Vec::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let key = SipKey::fixed().hash64(candidate.key.as_bytes()).to_le_bytes();
            let count = (weight(candidate.weight) * all / total).max(1);
            for number in 0..count as u64 {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&key);
                bytes[8..].copy_from_slice(&number.to_le_bytes());
                let hash = SipKey::fixed().hash64(&bytes);
                points.push(Point { hash, index: index as u32 });
            }
        }
        points.sort_unstable_by_key(|point| (point.hash, point.index));
        let bits = usize::BITS - points.len().leading_zeros();
        let shift = 64 - bits;
        let starts = (0..1_u64 << bits).map(|prefix| {
            let first = prefix.checked_shl(shift).unwrap_or(0);
            points.partition_point(|point| point.hash < first) as u32
        });
        Self { starts: starts.collect(), points, shift }
    }

    /// Returns the endpoint of the first point at or after `hash`, or of the point `step` places after that.
    pub(super) fn owner(&self, hash: u64, step: usize) -> Option<usize> {
        let start = self.starts[hash.checked_shr(self.shift).unwrap_or(0) as usize] as usize;
        let later = &self.points[start..];
        let first = start + later.iter().take_while(|point| point.hash < hash).count();
        let at = (first + step).checked_rem(self.points.len())?;
        Some(self.points[at].index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pick::Candidate;

    /// Returns the number of points of each endpoint.
    fn points(weights: &[u32]) -> Vec<usize> {
        let keys: Vec<_> = (0..weights.len()).map(|index| index.to_string()).collect();
        let candidate = |(key, &weight)| Candidate { weight, ..Candidate::new(key) };
        let candidates: Vec<_> =
            keys.iter().map(String::as_str).zip(weights).map(candidate).collect();
        let mut points = vec![0; weights.len()];
        for point in &Ring::new(Candidates::new(&candidates)).points {
            points[point.index as usize] += 1;
        }
        points
    }

    #[test]
    fn points_follow_weights_of_any_size_within_the_maximum() {
        assert_eq!(points(&[1, 0, 7]), [100, 100, 700]);
        assert_eq!(points(&[u32::MAX, u32::MAX / 2, 1]), [699_050, 349_525, 1]);
        assert_eq!(points(&[20_000; 100]), [MAX_POINTS / 100; 100]);
    }
}
