//! `Backoff`: exponential delays between attempts.

use std::time::Duration;

/// Delays that double with each failure, up to a bound.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::backoff::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
/// let waits: Vec<_> = (0..=5).map(|n| backoff.delay(n).as_millis()).collect();
/// assert_eq!(waits, [0, 100, 200, 400, 800, 1000]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Creates delays that begin with `first` after the first failure, and are at most `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// Returns the delay after this number of consecutive failures; zero for 0.
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_wait_for_the_bound_and_overflow_nothing() {
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(5));
        for failures in [14, 31, 32, 33, 34, u32::MAX] {
            assert_eq!(backoff.delay(failures), Duration::from_secs(5));
        }
        let longest = Backoff::new(Duration::MAX, Duration::MAX);
        assert_eq!(longest.delay(9), Duration::MAX);
    }
}
