//! `Candidates`: the endpoints of which a policy picks one.

use std::fmt;

use super::{Candidate, Prepared, RequestHead};

/// The endpoints of a set, by index from 0.
///
/// A candidate is created when it is accessed, so the cost of a policy depends only on the candidates that it
/// accesses.
#[derive(Clone, Copy)]
pub struct Candidates<'a> {
    source: &'a dyn Source,
    request: Option<RequestHead<'a>>,
    prepared: Option<&'a Prepared>,
}

/// A source of candidates.
///
/// It is implemented for arrays and vectors of candidates, for tests of a policy.
pub trait Source {
    /// Returns the number of candidates.
    fn count(&self) -> usize;

    /// Returns a candidate. `index` is below [`count`](Self::count).
    fn candidate(&self, index: usize) -> Candidate<'_>;

    /// Returns whether all weights are equal; `false` if that is unknown, the default.
    fn is_uniform(&self) -> bool {
        false
    }

    /// Returns the number of requests in flight of all candidates. The default adds them up.
    fn total_in_flight(&self) -> usize {
        (0..self.count()).map(|index| self.candidate(index).in_flight).sum()
    }
}

impl<'a> Candidates<'a> {
    /// Creates candidates without a request.
    pub fn new(source: &'a dyn Source) -> Self {
        Self { source, request: None, prepared: None }
    }

    /// Sets the request.
    #[must_use]
    pub fn for_request(self, request: RequestHead<'a>) -> Self {
        Self { request: Some(request), ..self }
    }

    /// Sets the result of [`Pick::prepare`](super::Pick::prepare).
    #[must_use]
    pub fn with_prepared(self, prepared: &'a Prepared) -> Self {
        Self { prepared: Some(prepared), ..self }
    }

    /// Returns the candidates of another source, for the same request.
    pub(super) fn of(self, source: &'a dyn Source, prepared: Option<&'a Prepared>) -> Self {
        Self { source, request: self.request, prepared }
    }

    /// Returns the head of the request, if there is one.
    pub fn request(&self) -> Option<RequestHead<'a>> {
        self.request
    }

    /// Returns what the policy has prepared for this set, if it is of this type. Without it a policy must use the
    /// candidates alone.
    pub fn prepared<T: 'static>(&self) -> Option<&'a T> {
        self.prepared?.get()
    }

    pub(super) fn source(&self) -> &'a dyn Source {
        self.source
    }

    /// Returns the number of candidates.
    pub fn len(&self) -> usize {
        self.source.count()
    }

    /// Returns whether there are no candidates.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a candidate.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Candidate<'a> {
        self.source.candidate(index)
    }

    /// Returns all candidates in the order of their indices.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Candidate<'a>> + use<'a> {
        let source = self.source;
        (0..source.count()).map(|index| source.candidate(index))
    }

    /// Returns whether all weights are known to be equal.
    pub fn is_uniform(&self) -> bool {
        self.source.is_uniform()
    }

    /// Returns the number of requests in flight of all candidates.
    pub fn total_in_flight(&self) -> usize {
        self.source.total_in_flight()
    }

    /// Returns the index of the first eligible candidate, in a circular search from `first`.
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
