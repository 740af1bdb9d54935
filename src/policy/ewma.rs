//! Averages of what happened lately, for load balancing: [`PeakLatency`] and [`SuccessRate`].
//!
//! Each weighs an observation by its age: after the decay time it counts 1/e. Both are one atomic number, so
//! threads update them without a lock; an update that meets another one may be lost in neither.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The recent latency of an endpoint, which rises at once and falls slowly.
///
/// An observation above the estimate replaces it; one below is averaged in. Without observations the
/// estimate decays, so that an endpoint that was slow is tried again.
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
    /// Without an observation.
    pub fn new(decay: Duration) -> Self {
        Self { average: Average::new(decay, 0.0) }
    }

    /// Adds a latency that was measured at `now`, the time since any fixed instant.
    pub fn observe(&self, now: Duration, latency: Duration) {
        let latency = (latency.as_nanos() as f32).max(1.0);
        self.average.update(now, |value, keep| {
            if latency > value { latency } else { value * keep + latency * (1.0 - keep) }
        });
    }

    /// The estimate at `now`; zero if nothing is known.
    pub fn get(&self, now: Duration) -> Duration {
        let (value, keep) = self.average.load(now);
        Duration::from_nanos((value * keep) as u64)
    }
}

impl SuccessRate {
    /// Without an observation: all succeed.
    pub fn new(decay: Duration) -> Self {
        Self { average: Average::new(decay, 1.0) }
    }

    /// Adds an attempt that ended at `now`, the time since any fixed instant.
    ///
    /// Each counts at least a twentieth, so that a burst of failures shows before time has passed.
    pub fn observe(&self, now: Duration, is_success: bool) {
        let value = self.average.load(now).0;
        if is_success && value >= 1.0 {
            return; // as is usual: no write to a line that threads share
        }
        let outcome = if is_success { 1.0 } else { 0.0 };
        self.average.update(now, |value, keep| {
            let keep = keep.min(0.95);
            let value = value * keep + outcome * (1.0 - keep);
            if value > 0.999 { 1.0 } else { value }
        });
    }

    /// The share in thousandths.
    pub fn get(&self) -> u16 {
        (self.average.value() * 1000.0).round() as u16
    }
}

/// A number and the time of its last update, packed into one: a float of 32 bits, and milliseconds that wrap
/// after 49 days. After a gap of as many days an observation may count for more than its age allows.
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

    /// The value, and the part of it that is left at `now`.
    fn load(&self, now: Duration) -> (f32, f32) {
        let (value, at) = unpack(self.packed.load(Relaxed));
        (value, self.keep(at, millis(now)))
    }

    /// Replaces the value by that of `update`, which gets the old one and the part of it that is left.
    fn update(&self, now: Duration, update: impl Fn(f32, f32) -> f32) {
        let now = millis(now);
        // Relaxed: the number guards no other memory. The closure never declines.
        let _ = self.packed.fetch_update(Relaxed, Relaxed, |packed| {
            let (value, at) = unpack(packed);
            Some(pack(update(value, self.keep(at, now)), now))
        });
    }

    fn keep(&self, at: u32, now: u32) -> f32 {
        // A reader with an older clock sees an update of its future.
        let age = now.wrapping_sub(at).cast_signed().max(0);
        let part = age as f32 / self.decay_millis;
        // For a small part the exponential is a straight line, off by less than 1 in 10,000.
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
