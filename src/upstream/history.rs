//! `History`: the endpoints where a request was tried, an extension of the request after its first failure.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Extensions, Request};

use super::{endpoint::EndpointKey, error::AttemptErrorKind};
use crate::body::Body;

/// The failed attempts of a request. A request without failures has no history, so the cost is one lookup.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    tried: Vec<Tried>,
    needs_new_connection: bool,
    /// Receives the endpoint of the current attempt, if a second attempt may run at the same time.
    current: Option<CurrentEndpoint>,
}

/// The endpoint of a running attempt, which a second attempt avoids.
#[derive(Debug, Clone, Default)]
pub(super) struct CurrentEndpoint(Arc<Mutex<Option<EndpointKey>>>);

impl CurrentEndpoint {
    /// Returns the endpoint, once the attempt has one.
    pub(super) fn get(&self) -> Option<EndpointKey> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, key: &EndpointKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
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
        let tried = &mut Self::of_mut(request).tried;
        let may_repeat = kind == AttemptErrorKind::StaleConnection;
        match tried.iter_mut().find(|t| t.key == *key) {
            Some(tried) => tried.may_repeat = false,
            None => tried.push(Tried { key: key.clone(), may_repeat }),
        }
    }

    /// Makes the balancer report the endpoint of this attempt to `current`.
    pub(super) fn report_endpoint(request: &mut Request<Body>, current: CurrentEndpoint) {
        Self::of_mut(request).current = Some(current);
    }

    /// Records the endpoint of this attempt, if [`report_endpoint`](Self::report_endpoint) was called.
    pub(super) fn record_endpoint(&self, key: &EndpointKey) {
        if let Some(current) = &self.current {
            current.set(key);
        }
    }

    /// Makes the balancer send the request to `key`, where another attempt is running, only if all other endpoints were
    /// tried.
    pub(super) fn avoid(request: &mut Request<Body>, key: &EndpointKey) {
        let history = Self::of_mut(request);
        history.current = None;
        if !history.has_tried(key) {
            history.tried.push(Tried { key: key.clone(), may_repeat: true });
        }
    }

    /// Returns whether the endpoint was tried.
    pub(super) fn has_tried(&self, key: &EndpointKey) -> bool {
        self.tried.iter().any(|t| t.key == *key)
    }

    /// Returns whether the endpoint was tried with a new connection, or twice.
    pub(super) fn has_exhausted(&self, key: &EndpointKey) -> bool {
        self.tried.iter().any(|t| t.key == *key && !t.may_repeat)
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
