//! `History`: the endpoints where a request was tried, an extension of the request after its first failure.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Extensions, Request};

use super::{endpoint::EndpointKey, error::AttemptErrorKind};
use crate::body::Body;

/// The failed attempts of a request. A request without failures has no history, so the cost is one lookup.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    tried: Vec<Tried>,
    needs_new_connection: bool,
    /// The attempts of a hedged request, of which this is one.
    hedged: Option<HedgedAttempts>,
}

/// The two attempts of a hedged request, which may run at the same time. Each has a copy of the request; the error of
/// either may be the one that is returned.
#[derive(Debug, Clone, Default)]
pub(super) struct HedgedAttempts(Arc<Mutex<Hedged>>);

#[derive(Debug, Default)]
struct Hedged {
    /// The endpoint of the attempt that was sent last.
    current: Option<EndpointKey>,
    failed: Vec<Tried>,
}

impl HedgedAttempts {
    /// Returns the endpoint of the attempt that was sent last, once it has one.
    pub(super) fn endpoint(&self) -> Option<EndpointKey> {
        self.lock().current.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Hedged> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone)]
struct Tried {
    key: EndpointKey,
    /// Whether it may be tried again: the attempt failed on an idle connection, or is still running.
    may_repeat: bool,
}

impl History {
    pub(super) fn of(request: &Request<Body>) -> Option<&Self> {
        request.extensions().get()
    }

    fn of_mut(request: &mut Request<Body>) -> &mut Self {
        request.extensions_mut().get_or_insert_default()
    }

    /// Records a failed attempt at this endpoint.
    pub(super) fn add(request: &mut Request<Body>, key: &EndpointKey, kind: AttemptErrorKind) {
        let history = Self::of_mut(request);
        let may_repeat = kind == AttemptErrorKind::StaleConnection;
        let tried = Tried { key: key.clone(), may_repeat };
        if let Some(hedged) = &history.hedged {
            hedged.lock().failed.push(tried.clone());
        }
        match history.tried.iter_mut().find(|t| t.key == *key) {
            Some(known) => known.may_repeat = false,
            None => history.tried.push(tried),
        }
    }

    /// Makes the request one of two attempts: the balancer records its endpoint, and the failures of both are known to
    /// each.
    pub(super) fn set_hedged(request: &mut Request<Body>, attempts: HedgedAttempts) {
        let history = Self::of_mut(request);
        let Some(earlier) = history.hedged.replace(attempts) else { return };
        for failed in &earlier.lock().failed {
            match history.tried.iter_mut().find(|t| t.key == failed.key) {
                Some(known) => known.may_repeat &= failed.may_repeat,
                None => history.tried.push(failed.clone()),
            }
        }
    }

    /// Records the endpoint of this attempt, if it is one of [two](Self::set_hedged).
    pub(super) fn record_endpoint(&self, key: &EndpointKey) {
        if let Some(hedged) = &self.hedged {
            hedged.lock().current = Some(key.clone());
        }
    }

    /// Makes the balancer send the request to `key`, where another attempt is running, only if no untried endpoint is
    /// available.
    pub(super) fn avoid(request: &mut Request<Body>, key: &EndpointKey) {
        let history = Self::of_mut(request);
        if !history.has_tried(key) {
            history.tried.push(Tried { key: key.clone(), may_repeat: true });
        }
    }

    /// Returns whether the endpoint was tried.
    pub(super) fn has_tried(&self, key: &EndpointKey) -> bool {
        self.any(|t| t.key == *key)
    }

    /// Returns whether the endpoint was tried with a new connection, or twice.
    pub(super) fn has_exhausted(&self, key: &EndpointKey) -> bool {
        self.any(|t| t.key == *key && !t.may_repeat)
    }

    fn any(&self, predicate: impl Fn(&Tried) -> bool) -> bool {
        let of_other = |hedged: &HedgedAttempts| hedged.lock().failed.iter().any(&predicate);
        self.tried.iter().any(&predicate) || self.hedged.as_ref().is_some_and(of_other)
    }

    /// Requires a new connection for the next attempt, since other idle ones may be closed as well.
    pub(super) fn require_new_connection(request: &mut Request<Body>) {
        Self::of_mut(request).needs_new_connection = true;
    }

    /// Returns whether the next attempt must not use an idle connection.
    pub(super) fn needs_new_connection(extensions: &Extensions) -> bool {
        extensions.get::<Self>().is_some_and(|history| history.needs_new_connection)
    }
}
