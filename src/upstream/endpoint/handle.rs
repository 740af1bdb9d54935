//! `EndpointHandle`: the load and the health of an endpoint.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{EndpointError, EndpointKey, EndpointLimits, EndpointStatus, InFlight, Place};
use crate::{
    net::clock,
    policy::{
        ewma::{PeakLatency, SuccessRate},
        health::{Attempt, Health, HealthOptions, Phase, Sample},
        pick::Candidate,
    },
    upstream::group::Group,
};

/// Number of failures that are kept for the status of an endpoint: 4.
pub const LAST_ERRORS: usize = 4;

/// The decay time of latency and success: 10 s, after which an observation has a weight of 1/e, as in Finagle and
/// Linkerd.
const DECAY: Duration = Duration::from_secs(10);

/// The load and the health of an endpoint. Cheap to clone: clones share them.
#[derive(Debug, Clone)]
pub struct EndpointHandle(Arc<State>);

#[derive(Debug)]
struct State {
    key: EndpointKey,
    born: Instant,
    in_flight: AtomicUsize,
    pending: AtomicUsize,
    max_in_flight: AtomicUsize,
    max_pending: AtomicUsize,
    requests: AtomicU64,
    health: Health,
    latency: PeakLatency,
    success: SuccessRate,
    window: Window,
    options: ArcSwap<HealthOptions>,
    /// Whether the options detect outliers. A copy beside `options`, so that a response need not load them.
    has_outliers: AtomicBool,
    errors: Mutex<VecDeque<(Arc<str>, Instant)>>,
    is_idle: Notify,
}

/// The results since the last comparison of endpoints.
#[derive(Debug, Default)]
struct Window {
    requests: AtomicU32,
    failures: AtomicU32,
    timed: AtomicU32,
    micros: AtomicU64,
}

impl EndpointHandle {
    pub(super) fn new(key: EndpointKey, limits: EndpointLimits) -> Self {
        Self(Arc::new(State {
            key,
            born: clock::now(),
            in_flight: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(limits.max_in_flight()),
            max_pending: AtomicUsize::new(limits.max_pending()),
            requests: AtomicU64::new(0),
            health: Health::new(),
            latency: PeakLatency::new(DECAY),
            success: SuccessRate::new(DECAY),
            window: Window::default(),
            options: ArcSwap::default(),
            has_outliers: AtomicBool::new(HealthOptions::new().has_outliers()),
            errors: Mutex::default(),
            is_idle: Notify::new(),
        }))
    }

    /// Returns the endpoint's key.
    pub fn key(&self) -> &EndpointKey {
        &self.0.key
    }

    /// Returns the number of requests in flight, until the end of their response's body.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight.load(Relaxed)
    }

    /// Returns whether it is healthy, and neither taken out nor draining. It may be at its limits.
    pub fn is_available(&self) -> bool {
        self.is_available_at(clock::now())
    }

    pub(in crate::upstream) fn is_available_at(&self, now: Instant) -> bool {
        self.is_in(now) && !self.is_draining() && self.is_healthy(now)
    }

    /// Returns the state of its health. Times are since the endpoint was created.
    pub fn phase(&self) -> Phase {
        self.0.health.phase(self.age(clock::now()), &self.options())
    }

    /// Returns the number of consecutive failed attempts. A closed idle connection and a failure of the request
    /// itself do not count.
    pub fn failures(&self) -> u32 {
        self.0.health.failures()
    }

    /// Returns the last of these failures, if there was one.
    pub fn last_error(&self) -> Option<Arc<str>> {
        self.errors().front().map(|(text, _)| text.clone())
    }

    /// Returns the limits of concurrent requests.
    pub fn limits(&self) -> EndpointLimits {
        let (in_flight, pending) = (&self.0.max_in_flight, &self.0.max_pending);
        EndpointLimits::new().in_flight(in_flight.load(Relaxed)).pending(pending.load(Relaxed))
    }

    /// Changes the limits of concurrent requests. Requests beyond new limits continue.
    pub fn set_limits(&self, limits: EndpointLimits) {
        self.0.max_in_flight.store(limits.max_in_flight(), Relaxed);
        self.0.max_pending.store(limits.max_pending(), Relaxed);
    }

    /// Takes it out for `period`: it gets no requests, even if there are no other endpoints. Neither a success, a
    /// failure nor a health check changes that; [`restore`](Self::restore) does.
    pub fn eject(&self, period: Duration) {
        self.0.health.take_out(self.age(clock::now()).saturating_add(period));
    }

    /// Drains it: it gets only requests of [sessions](crate::policy::pick::Sticky) that are bound to it, until
    /// [`restore`](Self::restore). [`idle`](Self::idle) waits for the end of its requests.
    pub fn drain(&self) {
        self.0.health.set_draining(true);
    }

    /// Waits until it has no requests in flight.
    pub async fn idle(&self) {
        loop {
            let mut is_idle = std::pin::pin!(self.0.is_idle.notified());
            // Before the check, so that the end of a request after it is noticed.
            is_idle.as_mut().enable();
            if self.0.in_flight.load(SeqCst) == 0 {
                return;
            }
            is_idle.await;
        }
    }

    /// Ends an ejection by [`eject`](Self::eject) or by failures, a [`drain`](Self::drain), and its `Retry-After`. It
    /// remains down while active checks fail.
    pub fn restore(&self) {
        self.0.health.restore(self.age(clock::now()), &self.options());
    }

    /// Returns the status for a status page; weight, tier and zone are those of the set.
    pub(in crate::upstream) fn status(&self, place: &Place) -> EndpointStatus {
        let now = clock::now();
        let age = self.age(now);
        let phase = self.0.health.phase(age, &self.options());
        let available_in = match phase {
            Phase::Out { until } | Phase::Ejected { until } | Phase::BackingOff { until } => {
                Some(until.saturating_sub(age))
            }
            _ => None,
        };
        let error = |(text, at): &(Arc<str>, Instant)| EndpointError {
            text: text.clone(),
            age: now.saturating_duration_since(*at),
        };
        EndpointStatus {
            key: self.key().clone(),
            weight: place.weight,
            tier: place.tier,
            zone: place.zone.clone(),
            phase,
            available_in,
            in_flight: self.in_flight(),
            pending: self.0.pending.load(Relaxed),
            limits: self.limits(),
            latency: self.0.latency.get(age),
            success: self.0.success.get(),
            requests: self.0.requests.load(Relaxed),
            failures: self.failures(),
            last_errors: self.errors().iter().map(error).collect(),
        }
    }

    /// Sets the load and health of the candidate, except whether it is available and tried.
    pub(in crate::upstream) fn describe(
        &self,
        candidate: &mut Candidate<'_>,
        now: Instant,
        options: &HealthOptions,
    ) {
        let age = self.age(now);
        candidate.ramp = self.0.health.ramp(age, options);
        candidate.in_flight = self.in_flight();
        candidate.latency = self.0.latency.get(age);
        candidate.success = self.0.success.get();
        candidate.is_draining = self.is_draining();
    }

    /// Returns whether no operator has taken it out. It may be draining.
    pub(in crate::upstream) fn is_in(&self, now: Instant) -> bool {
        let health = &self.0.health;
        health.is_never_out() || health.is_in(self.age(now))
    }

    pub(in crate::upstream) fn is_draining(&self) -> bool {
        self.0.health.is_draining()
    }

    /// Returns whether it is healthy, whatever an operator has set.
    pub(in crate::upstream) fn is_healthy(&self, now: Instant) -> bool {
        let health = &self.0.health;
        health.is_clear() || health.is_healthy(self.age(now), &self.options())
    }

    /// Returns whether it is below its limits.
    pub(in crate::upstream) fn has_room(&self) -> bool {
        self.in_flight() < self.0.max_in_flight.load(Relaxed)
            && self.0.pending.load(Relaxed) < self.0.max_pending.load(Relaxed)
    }

    /// Returns whether its pending requests are limited.
    pub(super) fn has_pending_limit(&self) -> bool {
        self.0.max_pending.load(Relaxed) != usize::MAX
    }

    /// Begins an attempt. Returns `None` if it is at a limit, or if it is half-open without a free probe, unless
    /// `is_forced`.
    pub(in crate::upstream) fn begin(
        &self,
        now: Instant,
        options: &HealthOptions,
        is_forced: bool,
        group: Option<&Arc<Group>>,
    ) -> Option<InFlight> {
        let below = |max: &AtomicUsize| {
            let max = max.load(Relaxed);
            move |n: usize| (n < max).then_some(n + 1)
        };
        let state = &self.0;
        // Sequentially consistent, like the flag of `drain` and the check of `idle`: either a caller that reads the
        // flag after this sees the drain, or `idle` sees the request.
        state.in_flight.fetch_update(SeqCst, Relaxed, below(&state.max_in_flight)).ok()?;
        if state.pending.fetch_update(Relaxed, Relaxed, below(&state.max_pending)).is_err() {
            self.end_in_flight();
            return None;
        }
        let Some(attempt) = state.health.begin(self.age(now), options, is_forced) else {
            self.end_pending();
            self.end_in_flight();
            return None;
        };
        state.requests.fetch_add(1, Relaxed);
        Some(InFlight::new(self.clone(), group.cloned(), attempt, now))
    }

    /// Records that a request is not pending any more: it has the head of its response, or has failed.
    pub(super) fn end_pending(&self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }

    /// Records the end of a request.
    pub(super) fn end_in_flight(&self) {
        if self.0.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.0.is_idle.notify_waiters();
        }
    }

    /// Adds an attempt to the averages, and to the results that are compared.
    pub(super) fn observe(&self, now: Instant, latency: Option<Duration>, is_success: bool) {
        let age = self.age(now);
        if let Some(latency) = latency {
            self.0.latency.observe(age, latency);
        }
        self.0.success.observe(age, is_success);
        if self.0.has_outliers.load(Relaxed) {
            let window = &self.0.window;
            window.requests.fetch_add(1, Relaxed);
            window.failures.fetch_add(u32::from(!is_success), Relaxed);
            if let Some(latency) = latency {
                window.timed.fetch_add(1, Relaxed);
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                window.micros.fetch_add(micros, Relaxed);
            }
        }
    }

    /// Raises the average latency to that of an attempt that had no response yet, which is a lower bound.
    pub(super) fn raise_latency(&self, now: Instant, at_least: Duration) {
        let age = self.age(now);
        if at_least > self.0.latency.get(age) {
            self.0.latency.observe(age, at_least);
        }
    }

    /// Takes the results since the last call.
    pub(in crate::upstream) fn take_sample(&self) -> Sample {
        let window = &self.0.window;
        Sample {
            requests: window.requests.swap(0, Relaxed),
            failures: window.failures.swap(0, Relaxed),
            timed: window.timed.swap(0, Relaxed),
            latency: Duration::from_micros(window.micros.swap(0, Relaxed)),
        }
    }

    /// Stores the text of a failure.
    pub(in crate::upstream) fn note_error(&self, text: String, now: Instant) {
        let mut errors = self.errors();
        errors.truncate(LAST_ERRORS - 1);
        errors.push_front((text.into(), now));
    }

    /// Returns whether both are handles of one endpoint, and not only of endpoints with the same key.
    pub(in crate::upstream) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(in crate::upstream) fn health(&self) -> &Health {
        &self.0.health
    }

    pub(in crate::upstream) fn options(&self) -> arc_swap::Guard<Arc<HealthOptions>> {
        self.0.options.load()
    }

    pub(in crate::upstream) fn set_options(&self, options: Arc<HealthOptions>) {
        let has_outliers = options.has_outliers();
        if has_outliers && !self.0.has_outliers.load(Relaxed) {
            self.take_sample(); // of the time in which they were detected last
        }
        self.0.has_outliers.store(has_outliers, Relaxed);
        self.0.options.store(options);
    }

    /// Returns the time since it was created, which is `now` for its health. Never zero.
    pub(in crate::upstream) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0.born) + Duration::from_millis(1)
    }

    pub(super) fn attempt_succeeded(&self, attempt: Attempt, now: Instant) {
        if let Err(attempt) = self.0.health.succeed_unless_ejected(attempt) {
            self.0.health.succeed(attempt, self.age(now), &self.options());
        }
    }

    fn errors(&self) -> MutexGuard<'_, VecDeque<(Arc<str>, Instant)>> {
        // Nothing panics while the lock is held.
        self.0.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
