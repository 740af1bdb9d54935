//! `Candidates`: the endpoints among which a policy picks.

use std::fmt;

use super::{Candidate, Prepared, RequestHead};

/// The endpoints that a request may go to, numbered from 0.
///
/// A candidate is made when it is looked at, so a policy that looks at one does not pay for all.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    source: &'a dyn Source,
    request: Option<RequestHead<'a>>,
    prepared: Option<&'a Prepared>,
}

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

    /// Requests that all candidates together are answering now. Default: the sum over all.
    fn total_in_flight(&self) -> usize {
        (0..self.count()).map(|index| self.candidate(index).in_flight).sum()
    }
}

impl<'a> Candidates<'a> {
    /// The candidates of `source`, for no request in particular.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, request: None, prepared: None }
    }

    /// The same candidates for this request.
    #[must_use]
    pub fn for_request(self, request: RequestHead<'a>) -> Self {
        Self { request: Some(request), ..self }
    }

    /// The same candidates with what [`Pick::prepare`](super::Pick::prepare) has made of them.
    #[must_use]
    pub fn with_prepared(self, prepared: &'a Prepared) -> Self {
        Self { prepared: Some(prepared), ..self }
    }

    /// The same request, for the candidates of another source.
    pub(super) fn of(self, source: &'a dyn Source, prepared: Option<&'a Prepared>) -> Self {
        Self { source, request: self.request, prepared }
    }

    /// The head of the request that is to be sent, if there is one.
    pub fn request(&self) -> Option<RequestHead<'a>> {
        self.request
    }

    /// What the policy prepared for this set, if it is of this type. Without it a policy has to do with the
    /// candidates alone.
    pub fn prepared<T: 'static>(&self) -> Option<&'a T> {
        self.prepared?.get()
    }

    pub(super) fn source(&self) -> &'a dyn Source {
        self.source
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.source.count()
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
        self.source.candidate(index)
    }

    /// All candidates, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Candidate<'a>> + use<'a> {
        let source = self.source;
        (0..source.count()).map(|index| source.candidate(index))
    }

    /// Whether all weights are known to be equal.
    pub fn is_uniform(&self) -> bool {
        self.source.is_uniform()
    }

    /// Requests that all candidates together are answering now.
    pub fn total_in_flight(&self) -> usize {
        self.source.total_in_flight()
    }

    /// The number of the first eligible candidate from `first` on, and in a circle.
    pub(super) fn eligible_from(&self, first: usize) -> Option<usize> {
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
