//! `RetryBudget`: limits retries relative to the number of requests, so that they cannot multiply an overload.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The cost of a retry in tokens: 1,000. Each request deposits a part of it.
const RETRY: u64 = 1000;

/// A budget of retries, to which each request adds a fraction of a retry, for example a fifth.
///
/// A limit of attempts per request is not enough: with three attempts each, overloaded servers get three times the
/// load. With a budget they get a fifth more at most. In addition, a few retries per second are allowed at any load.
/// Unused retries are kept up to a bound, for bursts of failures, for example when a server is killed. The budget
/// begins full.
///
/// ```
/// use std::time::Instant;
/// use vestibule::policy::retry_budget::RetryBudget;
///
/// let budget = RetryBudget::new(20).min_per_second(0).burst(2);
/// let now = Instant::now();
/// assert!(budget.try_withdraw(now) && budget.try_withdraw(now));
/// assert!(!budget.try_withdraw(now));
/// (0..5).for_each(|_| budget.deposit()); // five requests at 20 % each
/// assert!(budget.try_withdraw(now));
/// ```
#[derive(Debug)]
pub struct RetryBudget {
    deposit: u64,
    min_per_second: u64,
    burst: u64,
    /// In thousandths of a retry.
    tokens: AtomicU64,
    /// The time of the last refill.
    refilled: Mutex<Option<Instant>>,
}

impl RetryBudget {
    /// Creates a budget of `percent` retries per hundred requests and ten per second. It keeps up to 1,000 unused
    /// ones.
    pub const fn new(percent: u32) -> Self {
        Self {
            deposit: percent as u64 * RETRY / 100,
            min_per_second: 10,
            burst: 1000 * RETRY,
            tokens: AtomicU64::new(1000 * RETRY),
            refilled: Mutex::new(None),
        }
    }

    /// Sets how many retries per second are allowed at any load. Defaults to 10.
    #[must_use]
    pub const fn min_per_second(mut self, n: u32) -> Self {
        self.min_per_second = n as u64;
        self
    }

    /// Sets how many unused retries are kept, and the initial number. Defaults to 1,000.
    #[must_use]
    pub const fn burst(mut self, n: u32) -> Self {
        self.burst = n as u64 * RETRY;
        self.tokens = AtomicU64::new(self.burst);
        self
    }

    /// Counts the first attempt of a request.
    pub fn deposit(&self) {
        // Read first: while the budget is full, the cache line stays shared by all threads. Concurrent threads may
        // each exceed the bound by one deposit.
        if self.tokens.load(Relaxed) < self.burst {
            self.tokens.fetch_add(self.deposit, Relaxed);
        }
    }

    /// Takes a retry from the budget. Returns `false` if none is left.
    pub fn try_withdraw(&self, now: Instant) -> bool {
        self.refill(now);
        let take = |tokens: u64| tokens.min(self.burst).checked_sub(RETRY);
        self.tokens.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Returns the number of retries that are left.
    pub fn available(&self) -> u64 {
        self.tokens.load(Relaxed).min(self.burst) / RETRY
    }

    /// Adds the retries for the time since the last call.
    fn refill(&self, now: Instant) {
        // Nothing panics while the lock is held.
        let mut refilled = self.refilled.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *refilled.get_or_insert(now);
        let passed = now.saturating_duration_since(since).min(Duration::from_secs(60));
        // A retry costs 1,000 tokens, and a second has 1,000 milliseconds.
        let earned = u64::try_from(passed.as_millis()).unwrap_or(0) * self.min_per_second;
        if earned > 0 {
            *refilled = Some(now);
            let add = |tokens: u64| Some(tokens.saturating_add(earned).min(self.burst));
            let _ = self.tokens.fetch_update(Relaxed, Relaxed, add);
        }
    }
}

impl Default for RetryBudget {
    /// Allows one retry for five requests.
    fn default() -> Self {
        Self::new(20)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "any instant will do as the first one")]
mod tests {
    use super::*;

    fn withdraw_all(budget: &RetryBudget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.try_withdraw(now)).count()
    }

    #[test]
    fn budget_holds_no_more_than_its_burst() {
        let (budget, now) = (RetryBudget::new(100).min_per_second(0).burst(5), Instant::now());
        (0..100).for_each(|_| budget.deposit());
        assert_eq!((budget.available(), withdraw_all(&budget, now)), (5, 5));
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(withdraw_all(&budget, now), 5);
        assert_eq!(withdraw_all(&RetryBudget::new(0).burst(0), now), 0);
    }

    #[test]
    fn requests_earn_their_share_of_retries() {
        let (budget, now) = (RetryBudget::new(15).min_per_second(0), Instant::now());
        assert_eq!(withdraw_all(&budget, now), 1000);
        (0..1000).for_each(|_| budget.deposit());
        assert_eq!(withdraw_all(&budget, now), 150);
    }

    #[test]
    fn seconds_earn_retries_without_requests() {
        let (budget, now) = (RetryBudget::new(0).min_per_second(10).burst(30), Instant::now());
        assert_eq!(withdraw_all(&budget, now), 30);
        for (millis, earned) in [(99, 0), (100, 1), (1100, 10), (1150, 0), (1200, 1)] {
            let later = now + Duration::from_millis(millis);
            assert_eq!(withdraw_all(&budget, later), earned, "after {millis} ms");
        }
        assert_eq!(withdraw_all(&budget, now + Duration::from_secs(3600)), 30);
    }

    #[test]
    fn shared_budget_withdraws_no_retry_twice() {
        let (budget, now) = (RetryBudget::new(0).min_per_second(0).burst(1000), Instant::now());
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| withdraw_all(&budget, now))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
