//! `Rng`: a random number generator without a lock.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Debug)]
pub(super) struct Rng(AtomicU64);

impl Rng {
    pub(super) fn new() -> Self {
        Self::with_seed(RandomState::new().hash_one(0))
    }

    pub(super) const fn with_seed(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        // Relaxed: each caller gets another number, and none orders access to other memory.
        mix(self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }
}

/// The finalizer of SplitMix64: each bit of the result depends on all bits of `z`.
pub(super) const fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales 32 random bits to a number below `n`: Lemire's multiplication, whose bias is below n / 2^32.
pub(super) const fn scale(bits: u64, n: usize) -> usize {
    (((bits & 0xffff_ffff) * n as u64) >> 32) as usize
}
