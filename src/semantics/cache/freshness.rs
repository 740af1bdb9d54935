//! Freshness and age of a response (RFC 9111 section 4.2), and whether it may be reused.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use super::{
    control::{RequestControl, ResponseControl},
    directives::{MAX_SECONDS, seconds},
};
use crate::semantics::date::HttpDate;

/// Status codes whose responses may be stored without explicit freshness (RFC 9110 section 15.1). 206 is excluded,
/// since partial responses are not stored.
const HEURISTIC: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Default times of responses without explicit ones. All are zero initially: a response is fresh, or may be used
/// while it is stale, only if its own fields permit it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lifetimes {
    /// Freshness derived from `Last-Modified`.
    pub heuristic: Option<Heuristic>,
    /// The lifetime of a success or redirect without explicit freshness, if there is no heuristic for it.
    pub default: Duration,
    /// The lifetime of a 404, 405, 410, 414 or 501 without explicit freshness.
    pub negative: Duration,
    /// How long a stale response is used while it is revalidated.
    pub stale_while_revalidate: Duration,
    /// How long a stale response is used instead of an error.
    pub stale_if_error: Duration,
}

/// Freshness as a share of the time since the last modification (RFC 9111 section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heuristic {
    /// The share in per cent.
    pub percent: u32,
    /// The upper bound.
    pub max: Duration,
}

impl Default for Heuristic {
    /// A tenth, as RFC 9111 suggests, and at most a day.
    fn default() -> Self {
        Self { percent: 10, max: Duration::from_secs(86_400) }
    }
}

/// When a response was requested and received.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The time of the request, since the Unix epoch, by the clock of `now`.
    pub requested: Duration,
    /// The time at which the head of the response was received, by the same clock.
    pub received: Duration,
    /// The same by the wall clock, with which `Date` is compared.
    pub date: HttpDate,
}

/// The freshness of a stored response.
///
/// ```
/// use std::time::Duration;
/// use http::{HeaderMap, StatusCode, header::CACHE_CONTROL};
/// use vestibule::semantics::{cache::{*, freshness::Received}, date::HttpDate};
///
/// let mut headers = HeaderMap::new();
/// headers.insert(CACHE_CONTROL, "max-age=60".parse().unwrap());
/// let (t, second) = (Duration::from_secs(1_000_000), Duration::from_secs(1));
/// let received = Received { requested: t, received: t, date: HttpDate::from_seconds(1_000_000) };
/// let control = ResponseControl::of(&headers);
/// let freshness =
///     Freshness::of(StatusCode::OK, &headers, &control, received, &Lifetimes::default());
/// assert_eq!(freshness.age(t + 9 * second), 9 * second);
/// assert_eq!(freshness.reuse(&RequestControl::default(), t + 59 * second), Reuse::Fresh);
/// assert_eq!(freshness.reuse(&RequestControl::default(), t + 60 * second), Reuse::Validate);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    pub(super) received: Duration,
    pub(super) initial_age: Duration,
    pub(super) lifetime: Duration,
    pub(super) stale_while_revalidate: Duration,
    pub(super) stale_if_error: Duration,
    pub(super) needs_validation: bool,
    pub(super) forbids_stale: bool,
    pub(super) is_explicit: bool,
}

/// Whether a stored response may answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is fresh.
    Fresh,
    /// It is stale and may be used, and must be revalidated in the background.
    StaleWhileRevalidate,
    /// It is stale, and the request accepts that.
    Stale,
    /// It must be validated first.
    Validate,
}

impl Freshness {
    /// Computes the freshness of a response from its status and fields.
    pub fn of(
        status: StatusCode,
        headers: &HeaderMap,
        control: &ResponseControl,
        times: Received,
        defaults: &Lifetimes,
    ) -> Self {
        let explicit = explicit_lifetime(headers, control, times.date);
        let lifetime = explicit
            .unwrap_or_else(|| implicit_lifetime(status, headers, control, times.date, defaults));
        let forbids_stale = control.forbids_stale();
        // A response that is never fresh may be for one client alone. It is used only after validation, unless it says
        // otherwise itself.
        let is_never_fresh = lifetime.is_zero();
        // `s-maxage` implies proxy-revalidate (RFC 9111 section 5.2.2.10), but an explicit stale time of the response
        // has precedence.
        let window = |own: Option<u64>, default: Duration| match own {
            _ if forbids_stale => Duration::ZERO,
            Some(seconds) => Duration::from_secs(seconds),
            None if control.s_maxage.is_some() || is_never_fresh => Duration::ZERO,
            None => default,
        };
        Self {
            received: times.received,
            initial_age: initial_age(headers, times),
            lifetime,
            stale_while_revalidate: window(
                control.stale_while_revalidate,
                defaults.stale_while_revalidate,
            ),
            stale_if_error: window(control.stale_if_error, defaults.stale_if_error),
            needs_validation: control.needs_validation(),
            forbids_stale: forbids_stale
                || control.s_maxage.is_some()
                || (is_never_fresh && control.stale_while_revalidate.is_none_or(|secs| secs == 0)),
            is_explicit: explicit.is_some(),
        }
    }

    /// Returns the age at `now` (RFC 9111 section 4.2.3), at most 2^31 seconds.
    pub fn age(&self, now: Duration) -> Duration {
        let resident = now.saturating_sub(self.received);
        self.initial_age.saturating_add(resident).min(Duration::from_secs(MAX_SECONDS))
    }

    /// Returns the freshness lifetime.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Returns for how long the response is still fresh; 0 if it is stale.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.remaining_at_age(self.age(now))
    }

    fn remaining_at_age(&self, age: Duration) -> Duration {
        if self.needs_validation { Duration::ZERO } else { self.lifetime.saturating_sub(age) }
    }

    /// Returns for how long the response has been stale; 0 if it is fresh.
    pub fn staleness(&self, now: Duration) -> Duration {
        self.staleness_at_age(self.age(now))
    }

    fn staleness_at_age(&self, age: Duration) -> Duration {
        if self.needs_validation { age } else { age.saturating_sub(self.lifetime) }
    }

    /// Returns the remaining freshness in seconds at an [age](Self::age); negative if the response is stale.
    #[cfg_attr(not(feature = "cache"), expect(dead_code, reason = "for Cache-Status"))]
    pub(crate) fn ttl(&self, age: Duration) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let left = self.remaining_at_age(age);
        if left.is_zero() { -seconds(self.staleness_at_age(age)) } else { seconds(left) }
    }

    /// Returns whether the response may be used for another request without a validation, for as long as its lifetime or
    /// its `stale-while-revalidate`. If not, it may be for one client alone.
    pub fn is_shareable(&self) -> bool {
        let is_usable = !self.lifetime.is_zero() || !self.stale_while_revalidate.is_zero();
        is_usable && !self.needs_validation
    }

    /// Returns whether the response has explicit freshness.
    pub fn is_explicit(&self) -> bool {
        self.is_explicit
    }

    /// Returns the time after which the response cannot be used without a validator: it is neither fresh nor may be
    /// used stale.
    pub fn useful_until(&self) -> Duration {
        let stale = self.stale_while_revalidate.max(self.stale_if_error);
        let left = self.lifetime.saturating_add(stale).saturating_sub(self.initial_age);
        if self.needs_validation { self.received } else { self.received.saturating_add(left) }
    }

    /// Decides whether the response may answer a request at `now` (RFC 9111 section 4.2.4).
    pub fn reuse(&self, request: &RequestControl, now: Duration) -> Reuse {
        let age = self.age(now);
        let secs = Duration::from_secs;
        if self.needs_validation
            || request.no_cache
            || request.max_age.is_some_and(|max| age > secs(max))
            || request.max_age == Some(0)
        {
            return Reuse::Validate;
        }
        let remaining = self.remaining_at_age(age);
        if request.min_fresh.is_some_and(|min| remaining < secs(min)) {
            return Reuse::Validate;
        }
        // A response is fresh while its lifetime is *greater* than its age.
        if remaining > Duration::ZERO {
            return Reuse::Fresh;
        }
        let stale = self.staleness_at_age(age);
        if stale < self.stale_while_revalidate {
            return Reuse::StaleWhileRevalidate;
        }
        let is_accepted = request.max_stale.is_some_and(|max| stale <= secs(max));
        if is_accepted && !self.forbids_stale { Reuse::Stale } else { Reuse::Validate }
    }

    /// Returns whether a stale response may be used because the origin failed.
    pub fn is_usable_on_error(&self, now: Duration) -> bool {
        self.is_usable_for(self.stale_if_error, now)
    }

    /// Returns whether the response may be used although it has been stale for up to `window`.
    pub fn is_usable_for(&self, window: Duration, now: Duration) -> bool {
        if self.needs_validation {
            return false;
        }
        let stale = self.staleness(now);
        let is_fresh = self.remaining(now) > Duration::ZERO;
        is_fresh || stale < self.stale_if_error || (stale < window && !self.forbids_stale)
    }

    /// Returns the values in a form that can be written to disk: times in nanoseconds, and flags.
    #[cfg_attr(not(feature = "cache"), expect(dead_code, reason = "for stores on disk"))]
    pub(crate) fn to_words(self) -> [u64; 6] {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let flags = u64::from(self.needs_validation)
            | u64::from(self.forbids_stale) << 1
            | u64::from(self.is_explicit) << 2;
        [
            nanos(self.received),
            nanos(self.initial_age),
            nanos(self.lifetime),
            nanos(self.stale_while_revalidate),
            nanos(self.stale_if_error),
            flags,
        ]
    }

    /// Restores the values of [`to_words`](Self::to_words).
    #[cfg_attr(not(feature = "cache"), expect(dead_code, reason = "for stores on disk"))]
    pub(crate) fn from_words(words: [u64; 6]) -> Self {
        let [received, initial_age, lifetime, while_revalidate, if_error, flags] = words;
        Self {
            received: Duration::from_nanos(received),
            initial_age: Duration::from_nanos(initial_age),
            lifetime: Duration::from_nanos(lifetime),
            stale_while_revalidate: Duration::from_nanos(while_revalidate),
            stale_if_error: Duration::from_nanos(if_error),
            needs_validation: flags & 1 != 0,
            forbids_stale: flags & 2 != 0,
            is_explicit: flags & 4 != 0,
        }
    }

    /// Makes the response stale at `now`: it is validated before its next use, except while
    /// stale-while-revalidate allows it.
    pub fn expire(&mut self, now: Duration) {
        self.lifetime = self.lifetime.min(self.age(now));
    }

    /// Sets the maximum age if the response was received after `now`: the clock was set back since, so its age is unknown.
    #[cfg_attr(not(feature = "cache"), expect(dead_code, reason = "for stores on disk"))]
    pub(crate) fn correct(&mut self, now: Duration) {
        if self.received > now {
            (self.received, self.initial_age) = (now, Duration::from_secs(MAX_SECONDS));
        }
    }

    /// Decides whether to refresh a fresh response before it expires, so that a frequently requested one never
    /// expires.
    ///
    /// Implements XFetch (Vattani, Chierichetti, Lowenstein, 2015): the probability increases towards the expiry and
    /// with `cost`, the time of a fetch, so that one of many requests starts a fetch shortly before it is necessary.
    /// `random` is uniform in 0 to 1. A `beta` above 1 refreshes earlier; 0 never does.
    pub fn refreshes_early(&self, cost: Duration, beta: f64, random: f64, now: Duration) -> bool {
        let lead = -cost.as_secs_f64() * beta * random.max(f64::MIN_POSITIVE).ln();
        beta > 0.0 && self.remaining(now).as_secs_f64() <= lead
    }
}

/// Returns the explicit lifetime: `s-maxage`, `max-age`, or `Expires` (RFC 9111 section 4.2.1).
fn explicit_lifetime(
    headers: &HeaderMap,
    control: &ResponseControl,
    received: HttpDate,
) -> Option<Duration> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(Duration::from_secs(seconds));
    }
    if control.is_targeted {
        return None;
    }
    let mut lines = headers.get_all(header::EXPIRES).iter();
    let expires = match (lines.next(), lines.next()) {
        (None, _) => return None,
        (Some(value), None) => HttpDate::parse(value.as_bytes()),
        (Some(_), Some(_)) => None,
    };
    // An invalid date, most commonly 0, is a time in the past (section 5.3).
    let Some(expires) = expires else { return Some(Duration::ZERO) };
    let date = date(headers).unwrap_or(received);
    Some(Duration::from_secs(expires.seconds().saturating_sub(date.seconds()).min(MAX_SECONDS)))
}

fn implicit_lifetime(
    status: StatusCode,
    headers: &HeaderMap,
    control: &ResponseControl,
    received: HttpDate,
    defaults: &Lifetimes,
) -> Duration {
    if !is_heuristically_cacheable(status, control) {
        return Duration::ZERO;
    }
    let modified = headers.get(header::LAST_MODIFIED).and_then(|v| HttpDate::parse(v.as_bytes()));
    if let (Some(heuristic), Some(modified)) = (defaults.heuristic, modified) {
        let date = date(headers).unwrap_or(received);
        let since = Duration::from_secs(date.seconds().saturating_sub(modified.seconds()));
        return (since.saturating_mul(heuristic.percent) / 100).min(heuristic.max);
    }
    if status.is_client_error() || status.is_server_error() {
        defaults.negative
    } else {
        defaults.default
    }
}

/// Returns whether a response may be stored without explicit freshness (RFC 9111 section 3).
pub(super) fn is_heuristically_cacheable(status: StatusCode, control: &ResponseControl) -> bool {
    control.public || HEURISTIC.contains(&status.as_u16())
}

/// Returns the age of the response when it was received (RFC 9111 section 4.2.3).
fn initial_age(headers: &HeaderMap, times: Received) -> Duration {
    let apparent = date(headers).map_or(0, |d| times.date.seconds().saturating_sub(d.seconds()));
    let delay = times.received.saturating_sub(times.requested);
    let corrected = Duration::from_secs(age_field(headers)).saturating_add(delay);
    corrected.max(Duration::from_secs(apparent)).min(Duration::from_secs(MAX_SECONDS))
}

/// Returns the value of `Age`. A value that is not one number means an unknown age and counts as the maximum: RFC
/// 9111 section 5.1 permits ignoring it, but then an old response would count as new.
fn age_field(headers: &HeaderMap) -> u64 {
    let mut lines = headers.get_all(header::AGE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => 0,
        (Some(value), None) => seconds(value.as_bytes().trim_ascii()).unwrap_or(MAX_SECONDS),
        (Some(_), Some(_)) => MAX_SECONDS,
    }
}

/// Returns the value of `Date`; `None` if it is absent, repeated or invalid.
fn date(headers: &HeaderMap) -> Option<HttpDate> {
    let mut lines = headers.get_all(header::DATE).iter();
    match (lines.next(), lines.next()) {
        (Some(value), None) => HttpDate::parse(value.as_bytes()),
        _ => None,
    }
}
