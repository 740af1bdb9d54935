//! `InFlight`: an attempt at an endpoint, counted until it is dropped.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Request, StatusCode};

use super::EndpointHandle;
use crate::{
    body::Body,
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
    /// The end of the request's body; `None` if it was complete from the start.
    upload_end: Option<Arc<OnceLock<Instant>>>,
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
        Self { endpoint, group, attempt: Some(attempt), started, upload_end: None }
    }

    /// Returns whether it tries an endpoint whose ejection has ended, until its outcome is known.
    pub(super) fn is_probe(&self) -> bool {
        self.attempt.as_ref().is_some_and(Attempt::is_probe)
    }

    /// Observes the end of the request's body, unless it is complete: the time in which a client sends it is not the
    /// endpoint's.
    pub(super) fn observe_upload(&mut self, request: &mut Request<Body>) {
        if request.body().is_complete() {
            return;
        }
        let end = Arc::<OnceLock<Instant>>::default();
        self.upload_end = Some(end.clone());
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.with_observer(end, |end, _| {
            let _ = end.set(clock::now()); // a body ends once
        });
    }

    /// Returns how long the endpoint has had the whole request; `None` before that.
    fn latency(&self, now: Instant) -> Option<Duration> {
        let since = match &self.upload_end {
            Some(end) => *end.get()?,
            None => self.started,
        };
        Some(now.saturating_duration_since(since))
    }

    /// Records the head of a response.
    pub(super) fn answer(&mut self, status: StatusCode, fields: &HeaderMap) {
        let Some(attempt) = self.attempt.take() else { return };
        let frees_place = attempt.is_probe() || self.endpoint.has_pending_limit();
        self.endpoint.end_pending();
        self.judge_head(attempt, status, fields);
        // The body may take long.
        if frees_place && let Some(group) = &self.group {
            group.queue.wake();
        }
    }

    fn judge_head(&self, attempt: Attempt, status: StatusCode, fields: &HeaderMap) {
        let (endpoint, now) = (&self.endpoint, clock::now());
        let is_success = !status.is_server_error();
        // A response that succeeds before the end of the request is of a stream in both directions. Others may have waited
        // for the client.
        let since_start =
            || status.is_success().then(|| now.saturating_duration_since(self.started));
        endpoint.observe(now, self.latency(now).or_else(since_start), is_success);
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
        let Some(attempt) = self.attempt.take() else { return };
        self.endpoint.end_pending();
        let kind = error.kind();
        if let Some(request) = error.request_mut() {
            History::add(request, self.endpoint.key(), kind);
        }
        let failure = match kind {
            // These say nothing about the endpoint.
            _ if error.excuses_endpoint() => return self.endpoint.health().release(attempt),
            AttemptErrorKind::StaleConnection
            | AttemptErrorKind::Request
            | AttemptErrorKind::Busy
            | AttemptErrorKind::NoEndpoint => return self.endpoint.health().release(attempt),
            AttemptErrorKind::Unreachable => Failure::Unreachable,
            AttemptErrorKind::ConnectionLost
            | AttemptErrorKind::Timeout
            | AttemptErrorKind::Protocol
            | AttemptErrorKind::Service => Failure::Failed,
        };
        let now = clock::now();
        // A timeout is a lower bound of the latency; other failures may be quick.
        let latency = self.latency(now).filter(|_| kind == AttemptErrorKind::Timeout);
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

    /// Records the end of the response's body, or that the endpoint broke it off.
    pub(super) fn end_body(&mut self, result: Result<(), &BoxError>) {
        match result {
            Ok(()) => self.endpoint.health().complete(),
            Err(error) => self.break_off(error),
        }
    }

    fn break_off(&self, error: &BoxError) {
        let (endpoint, now) = (&self.endpoint, clock::now());
        endpoint.note_error(format!("response incomplete: {error}"), now);
        let options = endpoint.options();
        endpoint.observe(now, None, false);
        let Some(attempt) = endpoint.health().begin(endpoint.age(now), &options, true) else {
            return;
        };
        if self.count_failure(attempt, Failure::Incomplete, now) {
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
        // Cancelled, for example because another attempt was faster.
        if let Some(attempt) = self.attempt.take() {
            self.endpoint.end_pending();
            self.endpoint.health().release(attempt);
            let now = clock::now();
            if let Some(latency) = self.latency(now) {
                self.endpoint.raise_latency(now, latency);
            }
        }
        self.endpoint.end_in_flight();
        if let Some(group) = &self.group {
            group.leave();
        }
    }
}
