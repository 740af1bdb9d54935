//! Which endpoint a request goes to: [`Pick`], and the usual policies.

mod least;
mod random;
mod round_robin;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use least::LeastOutstanding;
pub use random::PowerOfTwoChoices;
pub use round_robin::RoundRobin;

/// Decides which of several candidates a request goes to.
///
/// It is asked once for each attempt, by many threads at a time, and sees a snapshot: the candidates
/// may be others at the next call. State such as a turn belongs to the policy itself.
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
}

impl<P: Pick + ?Sized> Pick for Arc<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        (**self).pick(candidates)
    }
}

impl<P: Pick + ?Sized> Pick for Box<P> {
    fn pick(&self, candidates: Candidates<'_>) -> Option<usize> {
        (**self).pick(candidates)
    }
}

/// An endpoint as it is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// Its key, which stays the same when other endpoints come and go.
    pub key: &'a str,
    /// Its share of the requests, relative to the other weights. At least 1.
    pub weight: u32,
    /// Requests that it is answering now.
    pub in_flight: usize,
    /// Whether it is expected to work. If no endpoint is, all of them are presented as available.
    pub is_available: bool,
    /// Whether this request has been tried there.
    pub is_tried: bool,
}

impl<'a> Candidate<'a> {
    /// An idle candidate of weight 1 that is available and untried.
    pub const fn new(key: &'a str) -> Self {
        Self { key, weight: 1, in_flight: 0, is_available: true, is_tried: false }
    }

    /// Whether a request may go there: it is available, and this request was not tried there.
    pub const fn is_eligible(&self) -> bool {
        self.is_available && !self.is_tried
    }

    /// Whether one more request is a smaller load here than at `other`, by weight.
    fn is_less_loaded_than(&self, other: &Self) -> bool {
        let load = |of: &Self, weight: u32| (of.in_flight as u128 + 1) * u128::from(weight.max(1));
        // a / v < b / w, multiplied by both weights.
        load(self, other.weight) < load(other, self.weight)
    }
}

/// The endpoints that a request may go to, numbered from 0.
///
/// A candidate is made when it is looked at, so a policy that looks at one does not pay for all.
#[derive(Clone, Copy)]
pub struct Candidates<'a>(&'a dyn Source);

/// What candidates are made of.
///
/// It is implemented for arrays and vectors of candidates, for tests of a policy.
pub trait Source {
    /// How many candidates there are.
    fn count(&self) -> usize;

    /// The candidate with this number, which is below [`count`](Self::count).
    fn candidate(&self, index: usize) -> Candidate<'_>;

    /// Whether all weights are equal. A source that cannot tell says `false`.
    fn is_uniform(&self) -> bool {
        false
    }
}

impl<'a> Candidates<'a> {
    /// The candidates of `source`.
    pub fn new(source: &'a dyn Source) -> Self {
        Self(source)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The candidate with this number.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Candidate<'a> {
        self.0.candidate(index)
    }

    /// All candidates, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Candidate<'a>> + use<'a> {
        let source = self.0;
        (0..source.count()).map(|index| source.candidate(index))
    }

    /// Whether all weights are known to be equal.
    pub fn is_uniform(&self) -> bool {
        self.0.is_uniform()
    }

    /// The number of the first eligible candidate from `first` on, and in a circle.
    fn eligible_from(&self, first: usize) -> Option<usize> {
        let n = self.len();
        (first..n).chain(0..first.min(n)).find(|&index| self.get(index).is_eligible())
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<const N: usize> Source for [Candidate<'_>; N] {
    fn count(&self) -> usize {
        N
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self[index]
    }
}

impl Source for Vec<Candidate<'_>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self[index]
    }
}
