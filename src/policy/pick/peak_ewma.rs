//! `PeakEwma`: the better of two endpoints by latency, load and failures.

use super::{Candidate, Candidates, Pick, rng::Rng, two_choices::better_of_two};

/// The least share of success that counts, in thousandths: an endpoint that always fails costs a hundred
/// times as much as one that never does, and is still tried at times.
const MIN_SUCCESS: u64 = 10;

/// Takes the cheaper of two endpoints drawn at random. The cost is the recent peak latency times the
/// requests in flight and one more, divided by the weight and by the share of attempts that succeeded.
///
/// The latency is that of [`Candidate::latency`], which rises at once with a slow response and falls slowly,
/// so an endpoint that becomes slow loses its share with the first slow response. One that answers quickly
/// because it fails does not attract requests. An endpoint without a known latency is compared as if it had
/// the other's.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::pick::{Candidate, Candidates, PeakEwma, Pick};
///
/// let mut servers = [Candidate::new("a"), Candidate::new("b")];
/// servers[0].latency = Duration::from_millis(90);
/// servers[1].latency = Duration::from_millis(10);
/// assert_eq!(PeakEwma::new().pick(Candidates::new(&servers)), Some(1));
/// servers[1].success = 50; // 5 % of its attempts succeed: 200 ms
/// assert_eq!(PeakEwma::new().pick(Candidates::new(&servers)), Some(0));
/// ```
#[derive(Debug)]
pub struct PeakEwma {
    rng: Rng,
}

impl PeakEwma {
    /// Draws from a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new() }
    }

    /// Draws the same sequence each time, for tests.
    pub const fn with_seed(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Pick for PeakEwma {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        better_of_two(candidates, &self.rng, is_cheaper)
    }
}

/// Whether `a` costs less than `b`.
fn is_cheaper(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let (known_a, known_b) = (a.latency.as_nanos(), b.latency.as_nanos());
    let latency_a = if known_a == 0 { known_b.max(1) } else { known_a };
    let latency_b = if known_b == 0 { known_a.max(1) } else { known_b };
    // As floats: the product of five numbers may be larger than 128 bits.
    let cost = |of: &Candidate<'_>, latency: u128| {
        let value = of.effective_weight() * u64::from(of.success).max(MIN_SUCCESS);
        latency as f64 * (of.in_flight as f64 + 1.0) / value as f64
    };
    cost(a, latency_a) < cost(b, latency_b)
}
