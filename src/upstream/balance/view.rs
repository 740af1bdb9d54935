//! `View`: the endpoints for one attempt.

use std::time::Instant;

use super::Refusal;
use crate::{
    policy::{
        health::HealthOptions,
        pick::{Candidate, Source},
    },
    upstream::{endpoint::Endpoint, group::Group, history::History},
};

/// The endpoints without load and health, for [`Pick::prepare`](crate::policy::pick::Pick::prepare).
pub(super) struct Members<'a, S> {
    pub(super) endpoints: &'a [Endpoint<S>],
    pub(super) is_uniform: bool,
}

impl<S> Source for Members<'_, S> {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        self.endpoints[index].candidate()
    }

    fn is_uniform(&self) -> bool {
        self.is_uniform
    }
}

/// The endpoints for one attempt.
pub(super) struct View<'a, S> {
    endpoints: &'a [Endpoint<S>],
    is_uniform: bool,
    history: Option<&'a History>,
    group: &'a Group,
    now: Instant,
    options: &'a HealthOptions,
    /// Whether too few of the untried endpoints are healthy.
    ignores_health: bool,
    /// Whether all endpoints were tried.
    may_repeat: bool,
}

impl<'a, S> View<'a, S> {
    pub(super) fn new(
        endpoints: &'a [Endpoint<S>],
        is_uniform: bool,
        history: Option<&'a History>,
        group: &'a Group,
        now: Instant,
        options: &'a HealthOptions,
    ) -> Self {
        let (ignores_health, may_repeat) = (false, false);
        let mut view = Self {
            endpoints,
            is_uniform,
            history,
            group,
            now,
            options,
            ignores_health,
            may_repeat,
        };
        view.may_repeat = history.is_some() && endpoints.iter().all(|e| view.is_tried(e));
        view.ignores_health = group.is_panic(now, options) || !view.has_healthy();
        view
    }

    /// Returns whether requests go to endpoints that are not healthy.
    pub(super) fn ignores_health(&self) -> bool {
        self.ignores_health
    }

    /// Returns whether the endpoint may get the request, whatever the policy picks.
    pub(super) fn may_send(&self, endpoint: &Endpoint<S>) -> bool {
        !self.is_tried(endpoint) && endpoint.handle().is_in(self.now)
    }

    /// Returns the reason why the policy has picked none.
    pub(super) fn refusal(&self) -> Refusal {
        let is_open = |e: &&Endpoint<S>| e.handle().is_in(self.now) && !e.handle().is_draining();
        let mut open = self.endpoints.iter().filter(is_open).peekable();
        if open.peek().is_none() {
            return Refusal::Empty;
        }
        let is_busy = |e: &Endpoint<S>| !self.is_tried(e) && !self.is_available(e);
        if open.any(is_busy) { Refusal::NoRoom } else { Refusal::Exhausted }
    }

    fn is_tried(&self, endpoint: &Endpoint<S>) -> bool {
        match self.history {
            None => false,
            Some(history) if self.may_repeat => history.has_exhausted(endpoint.key()),
            Some(history) => history.has_tried(endpoint.key()),
        }
    }

    fn is_available(&self, endpoint: &Endpoint<S>) -> bool {
        let handle = endpoint.handle();
        (self.ignores_health || handle.is_healthy(self.now))
            && handle.has_room()
            && handle.is_in(self.now)
    }

    /// Returns whether an untried endpoint is healthy. It may be at its limits.
    fn has_healthy(&self) -> bool {
        let is_healthy =
            |e: &Endpoint<S>| e.handle().is_available_at(self.now) && !self.is_tried(e);
        self.endpoints.iter().any(is_healthy)
    }
}

impl<S> Source for View<'_, S> {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn candidate(&self, index: usize) -> Candidate<'_> {
        let endpoint = &self.endpoints[index];
        let mut candidate = endpoint.candidate();
        endpoint.handle().describe(&mut candidate, self.now, self.options);
        candidate.is_available = self.is_available(endpoint);
        candidate.is_tried = self.is_tried(endpoint);
        candidate
    }

    fn is_uniform(&self) -> bool {
        self.is_uniform
    }

    fn total_in_flight(&self) -> usize {
        self.group.in_flight()
    }
}
