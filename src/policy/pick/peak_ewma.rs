//! `PeakEwma`: the better of two endpoints by latency, load and failures.

use super::{Candidate, Candidates, Pick, rng::Rng, two_choices::better_of_two};

/// Minimum share of success in the cost, in thousandths: an endpoint that always fails costs a hundred times as much
/// as one that never does, and is still tried occasionally.
const MIN_SUCCESS: u64 = 10;

/// Picks the cheaper one of two random endpoints. The cost is the recent peak latency times the requests in flight
/// plus one, divided by the weight and by the share of successful attempts.
///
/// [`Candidate::latency`] rises at once with a slow response and decays slowly, so an endpoint that becomes slow
/// loses its share with the first slow response. An endpoint that fails quickly does not attract requests. An
/// endpoint without a known latency is compared with the latency of the other.
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
    /// Creates the policy with a random seed.
    pub fn new() -> Self {
        Self { rng: Rng::new() }
    }

    /// Creates the policy with a fixed seed, for tests.
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

/// Returns whether `a` costs less than `b`.
fn is_cheaper(a: &Candidate<'_>, b: &Candidate<'_>) -> bool {
    let (known_a, known_b) = (a.latency.as_nanos(), b.latency.as_nanos());
    let latency_a = if known_a == 0 { known_b.max(1) } else { known_a };
    let latency_b = if known_b == 0 { known_a.max(1) } else { known_b };
    // Floats: the product of five numbers can exceed 128 bits.
    let cost = |of: &Candidate<'_>, latency: u128| {
        let value = of.effective_weight() * u64::from(of.success).max(MIN_SUCCESS);
        latency as f64 * (of.in_flight as f64 + 1.0) / value as f64
    };
    cost(a, latency_a) < cost(b, latency_b)
}
