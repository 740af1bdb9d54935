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
    /// Whether the request may go to an endpoint of which only an idle connection was tried.
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
        view.may_repeat = history.is_some_and(|history| view.needs_repetition(history));
        view.ignores_health = group.is_panic(now, options) || !view.has_healthy();
        view
    }

    /// Returns whether requests go to endpoints that are not healthy.
    pub(super) fn ignores_health(&self) -> bool {
        self.ignores_health
    }

    /// Returns the reason why the policy has picked none, or `None` if an endpoint is eligible: it may have become so
    /// after the pick.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let mut refusal = Refusal::Empty;
        for endpoint in self.endpoints {
            if !endpoint.handle().is_in(self.now) || endpoint.handle().is_draining() {
                continue;
            }
            if !self.is_tried(endpoint) {
                if self.is_available(endpoint) {
                    return None;
                }
                refusal = Refusal::NoRoom;
            } else if refusal == Refusal::Empty {
                refusal = Refusal::Exhausted;
            }
        }
        Some(refusal)
    }

    /// Returns whether a request is to be repeated at an endpoint of which only an idle connection was tried: no other
    /// is available, or all were tried.
    fn needs_repetition(&self, history: &History) -> bool {
        let (mut is_possible, mut has_untried) = (false, false);
        for endpoint in self.endpoints {
            let (key, handle) = (endpoint.key(), endpoint.handle());
            let is_available = handle.is_available_at(self.now) && handle.has_room();
            if !history.has_tried(key) {
                if is_available {
                    return false;
                }
                has_untried = true;
            } else if is_available && !history.has_exhausted(key) {
                is_possible = true;
            }
        }
        is_possible || !has_untried
    }

    /// Returns whether the request must not go to the endpoint, since it was tried there.
    pub(super) fn is_tried(&self, endpoint: &Endpoint<S>) -> bool {
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
