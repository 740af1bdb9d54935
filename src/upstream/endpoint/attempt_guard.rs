//! `InFlight`: an attempt at an endpoint, counted until it is dropped.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{HeaderMap, StatusCode};

use super::EndpointHandle;
use crate::{
    conn::{RequestInfo, log_request},
    error::{BoxError, Chain},
    net::clock,
    policy::health::{Attempt, Failure},
    semantics::date::retry_after,
    upstream::{
        error::{AttemptError, AttemptErrorKind},
        group::Group,
        history::History,
    },
};

/// An attempt that counts as in flight until it is dropped, and as pending until the head of its response.
pub(in crate::upstream) struct InFlight {
    endpoint: EndpointHandle,
    group: Option<Arc<Group>>,
    /// `None` once its outcome is known.
    attempt: Option<Attempt>,
    started: Instant,
}

impl InFlight {
    pub(super) fn new(
        endpoint: EndpointHandle,
        group: Option<Arc<Group>>,
        attempt: Attempt,
        started: Instant,
    ) -> Self {
        if let Some(group) = &group {
            group.enter();
        }
        Self { endpoint, group, attempt: Some(attempt), started }
    }

    /// Records the head of a response.
    pub(super) fn answer(&mut self, status: StatusCode, fields: &HeaderMap) {
        let Some(attempt) = self.attempt.take() else { return };
        let (endpoint, now) = (&self.endpoint, clock::now());
        endpoint.end_pending();
        let is_success = !status.is_server_error();
        let latency = now.saturating_duration_since(self.started);
        endpoint.observe(now, Some(latency), is_success);
        if is_success {
            return endpoint.attempt_succeeded(attempt, now);
        }
        let options = endpoint.options();
        if status == StatusCode::SERVICE_UNAVAILABLE
            && let Some(period) = retry_after(fields, SystemTime::now().into())
        {
            endpoint.health().back_off(endpoint.age(now), period, &options);
        }
        if options.fail_on_server_error {
            endpoint.note_error(format!("status {}", status.as_u16()), now);
            self.count_failure(attempt, Failure::Failed, now);
        } else {
            endpoint.attempt_succeeded(attempt, now);
        }
    }

    /// Records a failure, and adds the endpoint to the history of the request, if the error contains it.
    pub(super) fn fail(mut self, error: &mut AttemptError) {
        let kind = error.kind();
        if let Some(request) = error.request_mut() {
            History::add(request, self.endpoint.key(), kind);
        }
        let failure = match kind {
            // These say nothing about the endpoint. Dropping the guard releases the attempt.
            AttemptErrorKind::StaleConnection
            | AttemptErrorKind::Request
            | AttemptErrorKind::Busy
            | AttemptErrorKind::NoEndpoint => return,
            AttemptErrorKind::Unreachable => Failure::Unreachable,
            AttemptErrorKind::ConnectionLost
            | AttemptErrorKind::Timeout
            | AttemptErrorKind::Protocol
            | AttemptErrorKind::Service => Failure::Failed,
        };
        let Some(attempt) = self.attempt.take() else { return };
        let now = clock::now();
        self.endpoint.end_pending();
        // A timeout is a lower bound of the latency; other failures may be quick.
        let latency = now.saturating_duration_since(self.started);
        let latency = (kind == AttemptErrorKind::Timeout).then_some(latency);
        self.endpoint.observe(now, latency, false);
        let text = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
        self.endpoint.note_error(text, now);
        if self.count_failure(attempt, failure, now) {
            let request = error.request_mut().map(|request| RequestInfo::from_request(request));
            let (request, error) = (request.unwrap_or_default(), Chain(error));
            let endpoint = self.endpoint.key();
            log_request!(warn, "vestibule::upstream", &request, %endpoint, %error, "endpoint ejected");
        }
    }

    /// Records that the endpoint broke off the body of its response.
    pub(super) fn break_off(&mut self, error: &BoxError) {
        let (endpoint, now) = (&self.endpoint, clock::now());
        endpoint.note_error(format!("response incomplete: {error}"), now);
        let options = endpoint.options();
        endpoint.observe(now, None, false);
        let Some(attempt) = endpoint.health().begin(endpoint.age(now), &options, true) else {
            return;
        };
        if self.count_failure(attempt, Failure::Failed, now) {
            let endpoint = self.endpoint.key();
            tracing::warn!(target: "vestibule::upstream", %endpoint, %error, "endpoint ejected");
        }
    }

    /// Records a failure of the attempt. Returns whether an ejection has begun.
    fn count_failure(&self, attempt: Attempt, failure: Failure, now: Instant) -> bool {
        let endpoint = &self.endpoint;
        let may_eject = || self.group.as_ref().is_none_or(|group| group.may_eject(now));
        let (age, options) = (endpoint.age(now), endpoint.options());
        let is_ejected = endpoint.health().fail(attempt, age, &options, failure, may_eject);
        if is_ejected && let Some(group) = &self.group {
            group.recount();
        }
        is_ejected
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.endpoint.end_pending();
            self.endpoint.health().release(attempt);
        }
        self.endpoint.end_in_flight();
        if let Some(group) = &self.group {
            group.leave();
        }
    }
}
