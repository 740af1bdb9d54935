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
    /// Where to record the endpoint of the present attempt, if another attempt may begin beside it.
    present: Option<PresentEndpoint>,
}

/// The endpoint of an attempt under way, for one that is to go elsewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct PresentEndpoint(Arc<Mutex<Option<EndpointKey>>>);

impl PresentEndpoint {
    /// Returns the endpoint, once the attempt has one.
    pub(super) fn get(&self) -> Option<EndpointKey> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, key: &EndpointKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
    }
}

#[derive(Debug, Clone)]
struct Tried {
    key: EndpointKey,
    /// Whether only an idle connection was tried, which was closed, or the first attempt is still there.
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

    /// Lets another attempt know where this one goes.
    pub(super) fn report_endpoint(request: &mut Request<Body>, to: PresentEndpoint) {
        Self::of_mut(request).present = Some(to);
    }

    /// Records where this attempt goes, if another one wants to know.
    pub(super) fn record_endpoint(&self, key: &EndpointKey) {
        if let Some(present) = &self.present {
            present.set(key);
        }
    }

    /// Sends the request elsewhere than to `key`, where it is under way already, unless it was tried everywhere.
    pub(super) fn avoid(request: &mut Request<Body>, key: &EndpointKey) {
        let history = Self::of_mut(request);
        history.present = None;
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
