//! Health of endpoints: [`Health`] of one endpoint, and [outlier detection](outliers()) in a set.
//!
//! ```text
//!                failures in a row, unreachable, outlier            period over
//!     ready ------------------------------------------> ejected ----------------> half-open
//!       ^                                                  ^                          |
//!       |                                                  |   a probe fails          |
//!       |                                                  +--------------------------+
//!       |                     a probe succeeds                                        |
//!       +--- slow start <-------------------------------------------------------------+
//! ```
//!
//! Independently of that, an endpoint may be *down* because of active checks, *backing off* because of its
//! `Retry-After`, and *out* or *draining* because of an operator. An endpoint that is out is in again
//! after the time that the operator has set, and the operator ends both states earlier.

mod operator;
mod options;
mod outliers;
mod phase;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use options::HealthOptions;
pub use outliers::{Sample, outliers};
pub use phase::Phase;

/// Minimum share of its weight that an endpoint has in a slow start: 100 thousandths.
const MIN_RAMP: u64 = 100;

/// `Health::until` of an endpoint that is down because of active checks.
const DOWN: u64 = u64::MAX;

/// The health of one endpoint.
///
/// All times are durations since one instant that the caller chooses, for example the creation of the endpoint; they
/// are stored in milliseconds. The methods that a balancer calls for each request are a few atomic loads. Events other
/// than a success of a healthy endpoint take a lock.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::health::{Failure, Health, HealthOptions, Phase};
///
/// let (health, options) = (Health::new(), HealthOptions::new());
/// let second = Duration::from_secs;
/// let attempt = health.begin(second(1), &options, false).unwrap();
/// assert!(health.fail(attempt, second(2), &options, Failure::Unreachable, || true));
/// assert_eq!(health.phase(second(2), &options), Phase::Ejected { until: second(3) });
/// // One probe at a time checks whether it works again.
/// let probe = health.begin(second(3), &options, false).unwrap();
/// assert!(health.begin(second(3), &options, false).is_none());
/// health.succeed(probe, second(3), &options);
/// assert_eq!(health.phase(second(3), &options), Phase::Ready);
/// ```
#[derive(Debug)]
pub struct Health {
    /// The end of the ejection in milliseconds; 0 without one. After it, the endpoint is half-open.
    until: AtomicU64,
    /// The end of its `Retry-After`, in milliseconds.
    back_off_until: AtomicU64,
    /// The time until which an operator has taken it out, in milliseconds.
    out_until: AtomicU64,
    is_draining: AtomicBool,
    /// The begin of its slow start, in milliseconds; 0 without one.
    ramp_from: AtomicU64,
    /// Consecutive failed attempts.
    failures: AtomicU32,
    /// Consecutive incomplete responses. Their heads are successes, so they do not count as `failures`.
    incomplete: AtomicU32,
    /// Probes in flight while it is half-open.
    probes: AtomicU32,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// The begin of the current ejection.
    ejected_at: u64,
    /// Consecutive ejections, for the back-off.
    ejections: u32,
    /// The time at which the last ejection ended: by a success, by an operator, or by checks.
    restored_at: Option<u64>,
    is_down: bool,
    /// Consecutive checks whose result differs from the current state.
    contrary_checks: u32,
}

impl History {
    /// Returns whether an ejection has ended after `started`, so that the failure of an attempt of that time does not show
    /// that the endpoint still fails: a connect timeout reports a state that is seconds old.
    fn has_recovered_since(&self, started: u64) -> bool {
        self.restored_at.is_some_and(|restored| started < restored)
    }
}

/// The kind of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection could be made. The endpoint is ejected at once.
    Unreachable,
    /// Any other failure that counts.
    Failed,
    /// The response broke off after its head, which has counted as a success.
    Incomplete,
}

/// An attempt in flight, ended by [`Health::succeed`], [`Health::fail`] or [`Health::release`].
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    started: u64,
    is_probe: bool,
}

impl Attempt {
    /// Returns whether it takes one of the [probes](HealthOptions::probes) of a half-open endpoint.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }
}

impl Health {
    /// Creates the health of an endpoint that works.
    pub fn new() -> Self {
        Self {
            until: AtomicU64::new(0),
            back_off_until: AtomicU64::new(0),
            out_until: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            ramp_from: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            incomplete: AtomicU32::new(0),
            probes: AtomicU32::new(0),
            history: Mutex::default(),
        }
    }

    /// Returns whether no failure is recorded, so that it [is healthy](Self::is_healthy) at any time.
    pub fn is_clear(&self) -> bool {
        self.until.load(Relaxed) == 0 && self.back_off_until.load(Relaxed) == 0
    }

    /// Returns whether it is expected to work, and if it is half-open, whether another probe is allowed. The settings
    /// of an operator have no influence.
    pub fn is_healthy(&self, now: Duration, options: &HealthOptions) -> bool {
        let (until, back_off) = (self.until.load(Relaxed), self.back_off_until.load(Relaxed));
        if until == 0 && back_off == 0 {
            return true;
        }
        let now = millis(now);
        if until > now || back_off > now {
            return false;
        }
        until == 0 || self.probes.load(Relaxed) < options.probes
    }

    /// Returns the effective part of its weight at `now`, in thousandths: below 1,000 in a slow start.
    pub fn ramp(&self, now: Duration, options: &HealthOptions) -> u16 {
        let from = self.ramp_from.load(Relaxed);
        let period = millis(options.slow_start);
        if from == 0 || period == 0 {
            return 1000;
        }
        let age = millis(now).saturating_sub(from);
        if age >= period {
            self.ramp_from.store(0, Relaxed); // the next call does not need the clock
            return 1000;
        }
        (age * 1000 / period).max(MIN_RAMP) as u16
    }

    /// Returns the number of consecutive failed attempts, with the incomplete responses since the last
    /// [complete](Self::complete) one.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed).saturating_add(self.incomplete.load(Relaxed))
    }

    /// Begins an attempt. Returns `None` if the endpoint is half-open and no further probe is allowed, unless
    /// `is_forced`, for an attempt without another endpoint.
    pub fn begin(
        &self,
        now: Duration,
        options: &HealthOptions,
        is_forced: bool,
    ) -> Option<Attempt> {
        let (started, until) = (millis(now), self.until.load(Relaxed));
        if until == 0 || is_forced || until > started {
            return Some(Attempt { started, is_probe: false });
        }
        let free = |probes| (probes < options.probes).then_some(probes + 1);
        self.probes.fetch_update(Relaxed, Relaxed, free).ok()?;
        Some(Attempt { started, is_probe: true })
    }

    /// Ends an attempt whose result says nothing about the endpoint.
    #[allow(clippy::needless_pass_by_value, reason = "an attempt ends once")]
    pub fn release(&self, attempt: Attempt) {
        if attempt.is_probe {
            self.probes.fetch_sub(1, Relaxed);
        }
    }

    /// Ends a successful attempt, and with it an ejection that began before the attempt.
    pub fn succeed(&self, attempt: Attempt, now: Duration, options: &HealthOptions) {
        let Err(attempt) = self.succeed_unless_ejected(attempt) else { return };
        let started = attempt.started;
        self.end_success(attempt);
        let mut history = self.history();
        // A response to a request from before the failure does not show that the endpoint works after it.
        if started >= history.ejected_at && !history.is_down {
            history.restored_at = Some(millis(now));
            self.until.store(0, Relaxed);
            self.start_slowly(now, options);
        }
    }

    /// [`succeed`](Self::succeed) of an endpoint that is not ejected, which needs no options. Otherwise returns the
    /// attempt.
    pub(crate) fn succeed_unless_ejected(&self, attempt: Attempt) -> Result<(), Attempt> {
        if !matches!(self.until.load(Relaxed), 0 | DOWN) {
            return Err(attempt);
        }
        self.end_success(attempt);
        Ok(())
    }

    fn end_success(&self, attempt: Attempt) {
        self.release(attempt);
        // Read first: threads share the cache line, and a write would take it from the others.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Records that a response has ended completely.
    pub fn complete(&self) {
        // Read first, as above.
        if self.incomplete.load(Relaxed) != 0 {
            self.incomplete.store(0, Relaxed);
        }
    }

    /// Ends a failed attempt, and ejects the endpoint if it has reached the bound and `may_eject` returns `true`.
    /// Returns whether an ejection began. A failure of an attempt that began before the endpoint's last recovery does not
    /// count.
    #[allow(clippy::needless_pass_by_value, reason = "an attempt ends once")]
    pub fn fail(
        &self,
        attempt: Attempt,
        now: Duration,
        options: &HealthOptions,
        failure: Failure,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        let Attempt { started, is_probe } = attempt;
        self.release(Attempt { started, is_probe });
        if self.history().has_recovered_since(started) {
            return false;
        }
        let count = if failure == Failure::Incomplete { &self.incomplete } else { &self.failures };
        let failures = count.fetch_add(1, Relaxed).saturating_add(1);
        let limit = options.consecutive_failures;
        let is_over = limit != 0 && failures >= limit;
        let is_ejected = self.until.load(Relaxed) != 0;
        // During an ejection, every attempt that began after it is a probe, whether it was forced or not.
        let is_certain = failure == Failure::Unreachable || is_probe || is_ejected;
        (is_certain || (is_over && may_eject())) && self.eject(started, now, options)
    }

    /// Ejects an endpoint that is an [outlier](outliers()). Returns whether an ejection began.
    pub fn eject_outlier(&self, now: Duration, options: &HealthOptions) -> bool {
        self.until.load(Relaxed) == 0 && self.eject(millis(now), now, options)
    }

    /// Ejects the endpoint because of an attempt that began at `started`.
    fn eject(&self, started: u64, now: Duration, options: &HealthOptions) -> bool {
        let mut history = self.history();
        let (at, until) = (millis(now), self.until.load(Relaxed));
        let is_stale = until != 0 && (history.is_down || started < history.ejected_at);
        // Another attempt may have succeeded since the check in `fail`.
        if is_stale || history.has_recovered_since(started) {
            return false;
        }
        let longest = millis(options.ejection.delay(u32::MAX));
        if until == 0
            && history.restored_at.is_none_or(|restored| restored.saturating_add(longest) <= at)
        {
            history.ejections = 0;
        }
        // A failed forced attempt prolongs the ejection, and does not count as another one.
        let is_new = until <= at;
        history.ejections = history.ejections.saturating_add(u32::from(is_new));
        history.ejected_at = at;
        let period = millis(options.ejection.delay(history.ejections)).max(1);
        let end = at.saturating_add(period).min(DOWN - 1).max(until);
        self.until.store(end, Relaxed);
        is_new
    }

    /// Sends it no requests for `period`, the `Retry-After` of its response, at most for
    /// [`HealthOptions::max_retry_after`].
    pub fn back_off(&self, now: Duration, period: Duration, options: &HealthOptions) {
        let period = period.min(options.max_retry_after);
        if !period.is_zero() {
            self.back_off_until.fetch_max(millis(now.saturating_add(period)), Relaxed);
        }
    }

    /// Adds the result of an active check. Returns whether it changed the state to down or up.
    pub fn check(&self, now: Duration, is_ok: bool, options: &HealthOptions) -> bool {
        let mut history = self.history();
        if is_ok != history.is_down {
            history.contrary_checks = 0;
            return false;
        }
        history.contrary_checks += 1;
        let needed = if is_ok { options.rise } else { options.fall };
        if history.contrary_checks < needed.max(1) {
            return false;
        }
        history.contrary_checks = 0;
        history.is_down = !is_ok;
        if is_ok {
            self.until.store(0, Relaxed);
            self.failures.store(0, Relaxed);
            self.incomplete.store(0, Relaxed);
            history.restored_at = Some(millis(now));
            self.start_slowly(now, options);
        } else {
            self.until.store(DOWN, Relaxed);
        }
        true
    }

    /// Begins a slow start, for an endpoint that has joined a set.
    pub fn start_slowly(&self, now: Duration, options: &HealthOptions) {
        if !options.slow_start.is_zero() {
            self.ramp_from.store(millis(now).max(1), Relaxed);
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing panics while the lock is held.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
