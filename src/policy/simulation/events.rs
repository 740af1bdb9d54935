//! Events of the simulation, which are counted: an invariant over something that never occurs says nothing.

use std::collections::BTreeMap;

/// An event of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// Consecutive failures have ejected an endpoint.
    Ejected,
    /// The first failed connection has ejected an endpoint.
    Unreachable,
    /// Consecutive failures have ejected no endpoint, since too few would remain.
    Floor,
    /// An endpoint was ejected since it fails more often than the others.
    SuccessOutlier,
    /// An endpoint was ejected since it is slower than the others.
    LatencyOutlier,
    /// Active checks have taken an endpoint down.
    Down,
    /// Active checks have taken an endpoint up again.
    Up,
    /// A probe was sent to a half-open endpoint.
    Probe,
    /// It failed, so that the endpoint was ejected again.
    ProbeFailed,
    /// A success has ended an ejection.
    Readmitted,
    /// A request was sent to an endpoint in its slow start.
    SlowStart,
    /// A response has kept requests away by `Retry-After`.
    BackedOff,
    /// Too few endpoints were healthy, so that the request could go to any.
    Panic,
    /// A request was sent to an endpoint that was not healthy.
    Forced,
    /// A failed request was sent to another endpoint.
    Retried,
    /// A request was refused, since no endpoint could take it.
    Refused,
    /// A request failed at all endpoints to which it was sent.
    Failed,
    /// A key was sent to another endpoint than its own, which could not take it.
    KeyMoved,
    /// A key was sent to another endpoint than its own, whose load was at its bound.
    LoadBounded,
    /// A request was sent to the endpoint that its cookie names.
    Session,
    /// Such an endpoint was draining.
    DrainingSession,
    /// A request was sent to a backup, or to another zone.
    Backup,
    /// A request was sent to another endpoint than the first one.
    NotFirst,
}

/// The number of each event.
#[derive(Debug, Default)]
pub(super) struct Events(BTreeMap<Event, u64>);

impl Events {
    pub(super) fn count(&mut self, event: Event) {
        self.count_if(true, event);
    }

    pub(super) fn count_if(&mut self, occurs: bool, event: Event) {
        if occurs {
            *self.0.entry(event).or_default() += 1;
        }
    }

    pub(super) fn get(&self, event: Event) -> u64 {
        self.0.get(&event).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(event, n)| *self.0.entry(*event).or_default() += n);
    }
}
