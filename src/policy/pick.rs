//! Policies that pick the endpoint of a request: the trait [`Pick`], and the usual ones.
//!
//! | policy | takes | cost |
//! |---|---|---|
//! | [`RoundRobin`] | endpoints in turn, by weight | constant |
//! | [`Random`] | an endpoint at random, by weight | constant |
//! | [`LeastOutstanding`] | the endpoint with the fewest requests in flight | linear up to 64, then constant |
//! | [`PowerOfTwoChoices`] | of two random endpoints, the one with fewer requests in flight | constant |
//! | [`PeakEwma`] | of two random endpoints, the one with the lower cost of latency, load and failures | constant |
//! | [`ConsistentHash`] | the same endpoint for the same key: ring or Maglev, with bounded load | constant |
//! | [`First`] | the first one below its limit: bin packing | linear in the full ones |
//! | [`Sticky`] | the endpoint that a signed cookie names, otherwise that of another policy | one lookup |
//! | [`Tiers`] | an endpoint of the best tier, or of the local zone, picked by another policy | constant |

mod alias;
mod candidate;
mod candidates;
mod first;
mod hash;
mod key;
mod least;
mod peak_ewma;
mod prepared;
mod random;
mod rng;
mod round_robin;
mod shares;
mod siphash;
mod sticky;
mod tiers;
mod two_choices;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderValue;

pub use candidate::Candidate;
pub use candidates::{Candidates, Source};
pub use first::First;
pub use hash::{ConsistentHash, MAGLEV_SLOTS, RING_POINTS};
pub use key::{RequestHead, RequestKey};
pub use least::LeastOutstanding;
pub use peak_ewma::PeakEwma;
pub use prepared::Prepared;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use sticky::{STICKY_COOKIE, Sticky};
pub use tiers::Tiers;
pub use two_choices::PowerOfTwoChoices;

/// Picks the endpoint of a request among several candidates.
///
/// It is called once for each attempt, by many threads concurrently, with a snapshot: the set of candidates may
/// differ at the next call. State, for example of a rotation, is part of the policy.
///
/// Only [`pick`](Self::pick) is required:
///
/// ```
/// use vestibule::policy::pick::{Candidates, Pick};
///
/// /// The first available server: the others are backups.
/// struct FirstAvailable;
///
/// impl Pick for FirstAvailable {
///     fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
///         candidates.iter().position(|c| c.is_eligible())
///     }
/// }
///
/// # use vestibule::policy::pick::Candidate;
/// let mut servers = [Candidate::new("10.0.0.1:80"), Candidate::new("10.0.0.2:80")];
/// assert_eq!(FirstAvailable.pick(Candidates::new(&servers)), Some(0));
/// servers[0].is_available = false;
/// assert_eq!(FirstAvailable.pick(Candidates::new(&servers)), Some(1));
/// ```
pub trait Pick: Send + Sync {
    /// Returns the index of the picked candidate, below [`Candidates::len`], or `None` to refuse the request.
    ///
    /// The candidate should be [eligible](Candidate::is_eligible). A candidate that was already tried for this
    /// request is refused. If `None` is returned and a candidate is eligible, which may have become so in the meantime, the
    /// balancer calls this method again, up to 32 times.
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize>;

    /// Computes data for a set of endpoints, for example the table of a consistent hash.
    ///
    /// It is called when the set or a weight changes, and the result is part of each snapshot of this set
    /// ([`Candidates::prepared`]). The load and health of these candidates are not meaningful. Default: nothing.
    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        let _ = candidates;
        Prepared::default()
    }

    /// Returns the value of a `Set-Cookie` field for the response of the picked endpoint, if the policy needs one.
    /// Default: none.
    fn set_cookie(&self, candidates: Candidates<'_>, picked: usize) -> Option<HeaderValue> {
        let _ = (candidates, picked);
        None
    }
}

impl<P: Pick + ?Sized> Pick for Arc<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        (**self).pick(candidates)
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        (**self).prepare(candidates)
    }

    fn set_cookie(&self, candidates: Candidates<'_>, picked: usize) -> Option<HeaderValue> {
        (**self).set_cookie(candidates, picked)
    }
}

impl<P: Pick + ?Sized> Pick for Box<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        (**self).pick(candidates)
    }

    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        (**self).prepare(candidates)
    }

    fn set_cookie(&self, candidates: Candidates<'_>, picked: usize) -> Option<HeaderValue> {
        (**self).set_cookie(candidates, picked)
    }
}
