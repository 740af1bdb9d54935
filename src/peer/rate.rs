//! `RateMeter`: detects peers below a minimum rate.

use std::time::{Duration, Instant};

/// The minimum rate of a peer in bytes a second, with a grace period.
///
/// It works as a token bucket of time. The bucket holds at most the grace period, is full at the start,
/// drains in real time, and each byte adds its fraction of a second. A peer that empties it is too slow. So
/// short pauses are tolerated and one byte every half minute is not, and a fast start does not excuse a slow
/// end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes a second; 0 for no minimum.
    pub bytes_per_second: u32,
    /// The capacity of the bucket.
    pub grace: Duration,
}

impl MinRate {
    /// No minimum rate.
    pub const NONE: Self = Self { bytes_per_second: 0, grace: Duration::ZERO };

    /// Creates a minimum rate with a grace period.
    pub const fn new(bytes_per_second: u32, grace: Duration) -> Self {
        Self { bytes_per_second, grace }
    }
}

/// The token bucket of one transfer, stored as the time at which it will be empty.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vestibule::peer::{MinRate, RateMeter};
///
/// let rate = MinRate::new(100, Duration::from_secs(10));
/// let start = Instant::now();
/// let mut meter = RateMeter::start(rate, start);
/// let after = |s| start + Duration::from_secs(s);
/// assert_eq!(meter.deadline(), Some(after(10)));
/// meter.record(rate, after(8), 300); // worth three seconds
/// assert_eq!(meter.deadline(), Some(after(13)));
/// meter.record(rate, after(8), 1 << 30); // no more than the grace
/// assert_eq!(meter.deadline(), Some(after(18)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateMeter {
    deadline: Option<Instant>,
}

impl RateMeter {
    /// Starts a meter with a full bucket: at the start of a transfer, or after a pause that the peer did not
    /// cause.
    pub fn start(rate: MinRate, now: Instant) -> Self {
        let deadline = if rate.bytes_per_second == 0 { None } else { now.checked_add(rate.grace) };
        Self { deadline }
    }

    /// Records that `bytes` were transferred at `now`.
    pub fn record(&mut self, rate: MinRate, now: Instant, bytes: u64) {
        let Some(deadline) = self.deadline else { return };
        let full = now.checked_add(rate.grace);
        let worth = bytes.saturating_mul(1_000_000_000) / u64::from(rate.bytes_per_second.max(1));
        // A time beyond the clock's range is no deadline.
        self.deadline =
            [deadline.checked_add(Duration::from_nanos(worth)), full].into_iter().flatten().min();
    }

    /// Moves the deadline by a time in which the transfer did not wait for the peer.
    pub fn extend(&mut self, time: Duration) {
        // A time beyond the clock's range is no deadline.
        self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(time));
    }

    /// Returns the time at which the peer will be too slow, if nothing is transferred until then.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an arbitrary start")]
mod tests {
    use super::*;

    const RATE: MinRate = MinRate::new(240, Duration::from_secs(60));

    const DAY: u64 = if cfg!(miri) { 15_000 } else { 24 * 3600 };

    /// Returns the seconds until a peer that sends `bytes` every `every` seconds is too slow, at most a day.
    fn seconds_until_slow(rate: MinRate, bytes: u64, every: u64) -> u64 {
        let start = Instant::now();
        let mut meter = RateMeter::start(rate, start);
        let mut at = 0;
        while at < DAY {
            let now = start + Duration::from_secs(at + every);
            match meter.deadline() {
                Some(due) if due <= now => return (due - start).as_secs(),
                _ => meter.record(rate, now, bytes),
            }
            at += every;
        }
        DAY
    }

    #[test]
    fn rate_meter_passes_fast_peers_and_fails_slow_ones() {
        assert_eq!(seconds_until_slow(RATE, 240, 1), DAY);
        assert_eq!(seconds_until_slow(RATE, 240 * 59, 59), DAY, "in bursts within the grace");
        assert!(seconds_until_slow(RATE, 239, 1) < DAY);
        assert_eq!(seconds_until_slow(RATE, 120, 1), 119, "half as fast: twice the grace");
        assert_eq!(seconds_until_slow(RATE, 1, 10), 60);
        assert_eq!(seconds_until_slow(RATE, 240 * 61, 61), 60, "a pause longer than the grace");
    }

    #[test]
    fn fast_beginning_does_not_excuse_slow_end() {
        let start = Instant::now();
        let mut meter = RateMeter::start(RATE, start);
        meter.record(RATE, start, u64::MAX);
        assert_eq!(meter.deadline(), Some(start + RATE.grace));
    }

    #[test]
    fn no_rate_and_endless_graces_are_never_due() {
        let now = Instant::now();
        let mut any = RateMeter::start(MinRate::NONE, now);
        any.record(MinRate::NONE, now, 1);
        assert_eq!(any.deadline(), None);
        let endless = MinRate::new(1, Duration::MAX);
        let mut meter = RateMeter::start(endless, now);
        meter.record(endless, now, u64::MAX);
        assert_eq!(meter.deadline(), None);
    }
}
