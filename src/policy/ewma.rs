//! Exponentially weighted moving averages for load balancing: [`PeakLatency`] and [`SuccessRate`].
//!
//! The weight of an observation decreases with its age: after the decay time it is 1/e. Each average is one atomic
//! number, which threads update without a lock. No concurrent update is lost.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The recent peak latency of an endpoint. It rises at once and decays slowly.
///
/// An observation above the estimate replaces it, and one below is averaged in. Without observations the estimate
/// decays, so that an endpoint that was slow is tried again.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::ewma::PeakLatency;
///
/// let latency = PeakLatency::new(Duration::from_secs(10));
/// let (now, ms) = (Duration::from_secs(5), Duration::from_millis);
/// assert_eq!(latency.get(now), Duration::ZERO, "not known");
/// latency.observe(now, ms(100));
/// latency.observe(now + ms(1), ms(20));
/// assert!(latency.get(now + ms(1)) > ms(99));
/// assert!(latency.get(now + Duration::from_secs(30)) < ms(6));
/// ```
#[derive(Debug)]
pub struct PeakLatency {
    average: Average,
}

/// The share of an endpoint's recent attempts that succeeded.
///
/// ```
/// use std::time::Duration;
/// use vestibule::policy::ewma::SuccessRate;
///
/// let rate = SuccessRate::new(Duration::from_secs(10));
/// let at = Duration::from_secs;
/// assert_eq!(rate.get(), 1000, "in thousandths");
/// (0..20).for_each(|second| rate.observe(at(second), false));
/// assert!(rate.get() < 200);
/// (20..40).for_each(|second| rate.observe(at(second), true));
/// assert!(rate.get() > 800);
/// ```
#[derive(Debug)]
pub struct SuccessRate {
    average: Average,
}

impl PeakLatency {
    /// Creates an estimate without an observation.
    pub fn new(decay: Duration) -> Self {
        Self { average: Average::new(decay, 0.0) }
    }

    /// Adds a latency that was measured at `now`, a duration since a fixed instant.
    pub fn observe(&self, now: Duration, latency: Duration) {
        let latency = (latency.as_nanos() as f32).max(1.0);
        self.average.update(now, |value, keep| {
            if latency > value { latency } else { value * keep + latency * (1.0 - keep) }
        });
    }

    /// Returns the estimate at `now`, or zero without an observation.
    pub fn get(&self, now: Duration) -> Duration {
        let (value, keep) = self.average.load(now);
        Duration::from_nanos((value * keep) as u64)
    }
}

impl SuccessRate {
    /// Creates a rate without an observation, which is 1,000.
    pub fn new(decay: Duration) -> Self {
        Self { average: Average::new(decay, 1.0) }
    }

    /// Adds an attempt that ended at `now`, a duration since a fixed instant.
    ///
    /// Each observation has a weight of at least 1/20, so that a burst of failures has an effect at once. The first failure
    /// after successes has that weight, however long ago the last failure was.
    pub fn observe(&self, now: Duration, is_success: bool) {
        let value = self.average.load(now).0;
        if is_success && value >= 1.0 {
            return; // the usual case: no write to a cache line that threads share
        }
        let outcome = if is_success { 1.0 } else { 0.0 };
        self.average.update(now, |value, keep| {
            // At 1 its age is unknown, since successes leave it as it is.
            let keep = if value >= 1.0 { 0.95 } else { keep.min(0.95) };
            let value = value * keep + outcome * (1.0 - keep);
            if value > 0.999 { 1.0 } else { value }
        });
    }

    /// Returns the share of successful attempts, in thousandths.
    pub fn get(&self) -> u16 {
        (self.average.value() * 1000.0).round() as u16
    }
}

/// A value and the time of its last update in one number: a float of 32 bits, and milliseconds that wrap after 49 days.
/// After a pause of as many days, the old value may have too much weight.
#[derive(Debug)]
struct Average {
    packed: AtomicU64,
    decay_millis: f32,
}

impl Average {
    fn new(decay: Duration, value: f32) -> Self {
        let decay_millis = (decay.as_secs_f32() * 1000.0).max(1.0);
        Self { packed: AtomicU64::new(pack(value, 0)), decay_millis }
    }

    fn value(&self) -> f32 {
        unpack(self.packed.load(Relaxed)).0
    }

    /// Returns the value, and its remaining weight at `now`.
    fn load(&self, now: Duration) -> (f32, f32) {
        let (value, at) = unpack(self.packed.load(Relaxed));
        (value, self.keep(at, millis(now)))
    }

    /// Replaces the value by the result of `update`, which gets the old value and its remaining weight.
    fn update(&self, now: Duration, update: impl Fn(f32, f32) -> f32) {
        let now = millis(now);
        // Relaxed: the number does not order access to other memory. The closure never returns `None`.
        let _ = self.packed.fetch_update(Relaxed, Relaxed, |packed| {
            let (value, at) = unpack(packed);
            Some(pack(update(value, self.keep(at, now)), now))
        });
    }

    fn keep(&self, at: u32, now: u32) -> f32 {
        // A thread may have read the clock before the last update.
        let age = now.wrapping_sub(at).cast_signed().max(0);
        let part = age as f32 / self.decay_millis;
        // For a small part the exponential is linear, with an error below 1 in 10,000.
        if part < 0.01 { 1.0 - part } else { (-part).exp() }
    }
}

fn millis(at: Duration) -> u32 {
    at.as_millis() as u32 // wraps
}

fn pack(value: f32, at: u32) -> u64 {
    u64::from(value.to_bits()) << 32 | u64::from(at)
}

fn unpack(packed: u64) -> (f32, u32) {
    (f32::from_bits((packed >> 32) as u32), packed as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_rate_drops_little_with_one_failure_after_many_successes() {
        let at = Duration::from_secs;
        let rate = SuccessRate::new(at(10));
        (0..3600).for_each(|second| rate.observe(at(second), true));
        rate.observe(at(3600), false);
        assert!((900..1000).contains(&rate.get()), "{}", rate.get());
        // Failures in a row have an effect at once.
        (0..20).for_each(|_| rate.observe(at(3600), false));
        assert!(rate.get() < 400, "{}", rate.get());
    }
}
