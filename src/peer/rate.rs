//! `RateMeter`: is a peer as fast as it must be?

use std::time::{Duration, Instant};

/// How fast a peer must be: so many bytes a second, with a grace.
///
/// The grace is a store of time. It is full at the beginning, empties as time passes, and is filled
/// by bytes, each worth its part of a second; who has emptied it was too slow. So a pause or a bad
/// line is borne, one byte every half minute is not, and a fast beginning buys no slow end, since
/// the store never holds more than the grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes a second. Zero: any will do.
    pub bytes_per_second: u32,
    /// What the store holds.
    pub grace: Duration,
}

impl MinRate {
    /// Any speed will do.
    pub const NONE: Self = Self { bytes_per_second: 0, grace: Duration::ZERO };

    /// At least so many bytes a second, after a grace.
    pub const fn new(bytes_per_second: u32, grace: Duration) -> Self {
        Self { bytes_per_second, grace }
    }
}

/// The pace of one transfer: until when its store lasts.
///
/// ```
/// use std::time::{Duration, Instant};
/// use vestibule::peer::{RateMeter, MinRate};
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
    /// A transfer that begins now, or goes on after a pause that was not the peer's: its store is
    /// full.
    pub fn start(rate: MinRate, now: Instant) -> Self {
        let deadline = if rate.bytes_per_second == 0 { None } else { now.checked_add(rate.grace) };
        Self { deadline }
    }

    /// So many bytes went over just now.
    pub fn record(&mut self, rate: MinRate, now: Instant, bytes: u64) {
        let Some(deadline) = self.deadline else { return };
        let full = now.checked_add(rate.grace);
        let worth = bytes.saturating_mul(1_000_000_000) / u64::from(rate.bytes_per_second.max(1));
        // A time out of the clock's range is never.
        self.deadline = [deadline.checked_add(Duration::from_nanos(worth)), full].into_iter().flatten().min();
    }

    /// For so long the peer was not waited for: its store lasts longer by that time.
    pub fn extend(&mut self, time: Duration) {
        // A time out of the clock's range is never.
        self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(time));
    }

    /// When the peer will have been too slow, if nothing moves until then.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "some time to count from")]
mod tests {
    use super::*;

    const RATE: MinRate = MinRate::new(240, Duration::from_secs(60));

    const DAY: u64 = if cfg!(miri) { 15_000 } else { 24 * 3600 };

    /// For how many seconds does one who sends `bytes` every `every` seconds last, up to a day?
    fn lasts(rate: MinRate, bytes: u64, every: u64) -> u64 {
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
        assert_eq!(lasts(RATE, 240, 1), DAY);
        assert_eq!(lasts(RATE, 240 * 59, 59), DAY, "in bursts within the grace");
        assert!(lasts(RATE, 239, 1) < DAY);
        assert_eq!(lasts(RATE, 120, 1), 119, "half as fast: twice the grace");
        assert_eq!(lasts(RATE, 1, 10), 60);
        assert_eq!(lasts(RATE, 240 * 61, 61), 60, "a pause longer than the grace");
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
