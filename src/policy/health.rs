//! Whether an endpoint is expected to work: [`Health`], and which endpoints of a set are [outliers](outliers()).
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
//! Beside that an endpoint may be *down*, as active checks have found, *backing off*, as its `Retry-After` asks,
//! and *out* or *draining*, as an operator has it; only the operator ends the latter two.

mod options;
mod outliers;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

pub use options::HealthOptions;
pub use outliers::{Sample, outliers};

/// The least share of its weight that an endpoint has in a slow start, in thousandths.
const MIN_RAMP: u64 = 100;

/// `Health::until` of an endpoint that active checks found down.
const DOWN: u64 = u64::MAX;

/// The health of one endpoint.
///
/// All times are since one instant that the caller chooses, such as the birth of the endpoint; they are kept in
/// milliseconds. What a balancer asks for each request is a few atomic loads; events other than a success of
/// a healthy endpoint take a lock.
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
/// // One attempt at a time may show that it is back.
/// let probe = health.begin(second(3), &options, false).unwrap();
/// assert!(health.begin(second(3), &options, false).is_none());
/// health.succeed(probe, second(3), &options);
/// assert_eq!(health.phase(second(3), &options), Phase::Ready);
/// ```
#[derive(Debug)]
pub struct Health {
    /// The end of an ejection in milliseconds; 0 without one. When it is over, the endpoint is half-open.
    until: AtomicU64,
    /// Until when it asked for no requests by `Retry-After`.
    back_off_until: AtomicU64,
    /// Until when an operator has taken it out.
    out_until: AtomicU64,
    is_draining: AtomicBool,
    /// When its slow start began; 0 without one.
    ramp_from: AtomicU64,
    /// Attempts in a row that failed.
    failures: AtomicU32,
    /// Probes under way while it is half-open.
    probes: AtomicU32,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// When the present ejection began.
    ejected_at: u64,
    /// Ejections in a row, for the back-off.
    ejections: u32,
    /// When the last ejection ended by a success.
    restored_at: Option<u64>,
    is_down: bool,
    /// Checks in a row with a result other than the present state.
    contrary_checks: u32,
}

/// What is known of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It gets its share of the requests.
    Ready,
    /// It gets a growing part of its share, in thousandths.
    SlowStart {
        /// The part that it gets now.
        ramp: u16,
    },
    /// An operator has taken it out until then.
    Out {
        /// The end of it.
        until: Duration,
    },
    /// Only requests of sessions that are bound to it go there.
    Draining,
    /// It failed, and gets no requests until then.
    Ejected {
        /// The end of it.
        until: Duration,
    },
    /// An ejection is over: a few attempts may show that it works again.
    HalfOpen,
    /// Active checks have found it down.
    Down,
    /// It asked for no requests until then.
    BackingOff {
        /// The end of it.
        until: Duration,
    },
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The endpoint could not be reached: it is ejected at once.
    Unreachable,
    /// Anything else that counts.
    Failed,
}

/// An attempt under way: [`Health::succeed`], [`Health::fail`] or [`Health::release`] ends it.
#[derive(Debug)]
#[must_use]
pub struct Attempt {
    started: u64,
    is_probe: bool,
}

impl Health {
    /// A healthy endpoint.
    pub fn new() -> Self {
        Self {
            until: AtomicU64::new(0),
            back_off_until: AtomicU64::new(0),
            out_until: AtomicU64::new(0),
            is_draining: AtomicBool::new(false),
            ramp_from: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            probes: AtomicU32::new(0),
            history: Mutex::default(),
        }
    }

    /// What is known of it at `now`. What an operator has set comes first.
    pub fn phase(&self, now: Duration, options: &HealthOptions) -> Phase {
        let (at, until) = (millis(now), self.until.load(Relaxed));
        let out = self.out_until.load(Relaxed);
        let back_off = self.back_off_until.load(Relaxed);
        let ramp = self.ramp(now, options);
        match () {
            () if at < out => Phase::Out { until: Duration::from_millis(out) },
            () if self.is_draining() => Phase::Draining,
            () if until == DOWN => Phase::Down,
            () if at < until => Phase::Ejected { until: Duration::from_millis(until) },
            () if at < back_off => Phase::BackingOff { until: Duration::from_millis(back_off) },
            () if until != 0 => Phase::HalfOpen,
            () if ramp < 1000 => Phase::SlowStart { ramp },
            () => Phase::Ready,
        }
    }

    /// Whether an operator lets requests go there: it is not out. It may be draining.
    pub fn is_in(&self, now: Duration) -> bool {
        let out = self.out_until.load(Relaxed);
        out == 0 || out <= millis(now)
    }

    /// Whether it is being drained.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(SeqCst)
    }

    /// Whether nothing is known against it, so that it [is healthy](Self::is_healthy) at any time.
    pub fn is_clear(&self) -> bool {
        self.until.load(Relaxed) == 0 && self.back_off_until.load(Relaxed) == 0
    }

    /// Whether it is expected to work, and a probe is free if it is half-open. What an operator has set does not
    /// count.
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

    /// The part of its weight that counts at `now`, in thousandths.
    pub fn ramp(&self, now: Duration, options: &HealthOptions) -> u16 {
        let from = self.ramp_from.load(Relaxed);
        let period = millis(options.slow_start);
        if from == 0 || period == 0 {
            return 1000;
        }
        let age = millis(now).saturating_sub(from);
        if age >= period {
            self.ramp_from.store(0, Relaxed); // the next look needs no clock
            return 1000;
        }
        (age * 1000 / period).max(MIN_RAMP) as u16
    }

    /// Attempts in a row that failed.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Begins an attempt. `None` if it is half-open and no probe is free, unless `is_forced`, as for an attempt
    /// that has nowhere else to go.
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

    /// Ends an attempt that says nothing about the endpoint.
    #[allow(clippy::needless_pass_by_value, reason = "an attempt ends once")]
    pub fn release(&self, attempt: Attempt) {
        if attempt.is_probe {
            self.probes.fetch_sub(1, Relaxed);
        }
    }

    /// Ends an attempt that succeeded: ends an ejection that is older than the attempt.
    pub fn succeed(&self, attempt: Attempt, now: Duration, options: &HealthOptions) {
        let started = attempt.started;
        self.release(attempt);
        // Read before it is written: the line is shared by all threads.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if matches!(self.until.load(Relaxed), 0 | DOWN) {
            return;
        }
        let mut history = self.history();
        // A response to a request from before the failure says nothing about the time after it.
        if started >= history.ejected_at && !history.is_down {
            history.restored_at = Some(millis(now));
            self.until.store(0, Relaxed);
            self.start_slowly(now, options);
        }
    }

    /// Ends an attempt that failed, and ejects the endpoint if that was one too many and `may_eject` returns
    /// `true`. Returns whether an ejection began.
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
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        let limit = options.consecutive_failures;
        let is_over = limit != 0 && failures >= limit;
        let is_ejected = self.until.load(Relaxed) != 0;
        // With an ejection any attempt that began after it is a probe, whether it was forced or not.
        let is_certain = failure == Failure::Unreachable || is_probe || is_ejected;
        (is_certain || (is_over && may_eject())) && self.eject(started, now, options)
    }

    /// Ejects an endpoint that is an [outlier](outliers()). Returns whether an ejection began.
    pub fn eject_outlier(&self, now: Duration, options: &HealthOptions) -> bool {
        self.until.load(Relaxed) == 0 && self.eject(millis(now), now, options)
    }

    /// Ejects it for an attempt that began at `started`.
    fn eject(&self, started: u64, now: Duration, options: &HealthOptions) -> bool {
        let mut history = self.history();
        let (at, until) = (millis(now), self.until.load(Relaxed));
        if until != 0 && (history.is_down || started < history.ejected_at) {
            return false;
        }
        let longest = millis(options.ejection.delay(u32::MAX));
        if until == 0 && history.restored_at.is_none_or(|restored| restored + longest <= at) {
            history.ejections = 0;
        }
        // A failure of a forced attempt prolongs an ejection, which is not another one.
        let is_new = until <= at;
        history.ejections = history.ejections.saturating_add(u32::from(is_new));
        history.ejected_at = at;
        let period = millis(options.ejection.delay(history.ejections)).max(1);
        let end = at.saturating_add(period).min(DOWN - 1).max(until);
        self.until.store(end, Relaxed);
        is_new
    }

    /// Lets no requests go there for `period`, as its response asks, and at most for
    /// [`HealthOptions::max_retry_after`].
    pub fn back_off(&self, now: Duration, period: Duration, options: &HealthOptions) {
        let period = period.min(options.max_retry_after);
        if !period.is_zero() {
            self.back_off_until.fetch_max(millis(now.saturating_add(period)), Relaxed);
        }
    }

    /// Takes the result of an active check. Returns whether the endpoint went down or came up by it.
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
            history.restored_at = Some(millis(now));
            self.start_slowly(now, options);
        } else {
            self.until.store(DOWN, Relaxed);
        }
        true
    }

    /// Begins a slow start, as for an endpoint that has joined a set.
    pub fn start_slowly(&self, now: Duration, options: &HealthOptions) {
        if !options.slow_start.is_zero() {
            self.ramp_from.store(millis(now).max(1), Relaxed);
        }
    }

    /// Takes it out until then, as an operator.
    pub fn take_out(&self, until: Duration) {
        // Relaxed: a late reader sends one more request, which then goes elsewhere.
        self.out_until.store(millis(until), Relaxed);
    }

    /// Lets it finish what it has, and gives it no new sessions.
    pub fn set_draining(&self, on: bool) {
        self.is_draining.store(on, SeqCst);
    }

    /// Ends all that keeps requests away from it, as an operator: but for what active checks find.
    pub fn restore(&self, now: Duration, options: &HealthOptions) {
        let mut history = self.history();
        self.out_until.store(0, Relaxed);
        self.back_off_until.store(0, Relaxed);
        self.set_draining(false);
        if !history.is_down {
            self.until.store(0, Relaxed);
            history.restored_at = Some(millis(now));
        }
        self.start_slowly(now, options);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Nothing panics while it is held.
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
