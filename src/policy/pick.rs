//! Which endpoint a request goes to: [`Pick`], and the usual policies.
//!
//! | policy | takes | cost |
//! |---|---|---|
//! | [`RoundRobin`] | endpoints in turn, by weight | constant |
//! | [`Random`] | an endpoint at random, by weight | constant |
//! | [`LeastOutstanding`] | the endpoint with the fewest requests in flight | looks at all |
//! | [`PowerOfTwoChoices`] | of two at random the one with fewer requests in flight | constant |
//! | [`PeakEwma`] | of two at random the one with less latency, load and failures | constant |
//! | [`ConsistentHash`] | the same endpoint for the same key: ring or Maglev, with bounded load | constant |
//! | [`First`] | the first that has room: bin packing | looks at full ones |
//! | [`Sticky`] | the endpoint that a signed cookie names, else another policy's | one lookup |
//! | [`Tiers`] | an endpoint of the best tier, or of the local zone, by another policy | constant |

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

/// Decides which of several candidates a request goes to.
///
/// It is asked once for each attempt, by many threads at a time, and sees a snapshot: the candidates
/// may be others at the next call. State such as a turn belongs to the policy itself.
///
/// Only [`pick`](Self::pick) must be implemented:
///
/// ```
/// use vestibule::policy::pick::{Candidates, Pick};
///
/// /// The first server that is available: the others are stand-ins.
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
    /// Returns the index of the candidate to use, below [`Candidates::len`], or `None` if none will
    /// do.
    ///
    /// One that is not [eligible](Candidate::is_eligible) is no good choice: one that was tried
    /// already is refused.
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize>;

    /// Makes what the policy derives from a set of endpoints, such as the table of a consistent hash.
    ///
    /// It is called when the set or a weight changes, and the result is part of every snapshot of this set
    /// ([`Candidates::prepared`]). Load and health are meaningless here. Default: nothing.
    fn prepare(&self, candidates: Candidates<'_>) -> Prepared {
        let _ = candidates;
        Prepared::default()
    }

    /// Returns the value of a `Set-Cookie` field for the response of the endpoint that was picked, if the
    /// policy needs one. Default: none.
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
