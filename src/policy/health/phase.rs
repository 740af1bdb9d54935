//! `Phase`: the state of an endpoint, as a status page shows it.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use super::{DOWN, Health, HealthOptions, millis};

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// It gets its share of the requests.
    Ready,
    /// It gets a growing part of its share.
    SlowStart {
        /// The current part, in thousandths.
        ramp: u16,
    },
    /// An operator has taken it out.
    Out {
        /// The end of this state.
        until: Duration,
    },
    /// It gets only requests of sessions that are bound to it.
    Draining,
    /// It has failed, and gets no requests.
    Ejected {
        /// The end of the ejection.
        until: Duration,
    },
    /// Its ejection is over: a few probes check whether it works again.
    HalfOpen,
    /// Active checks have failed.
    Down,
    /// It gets no requests because of its `Retry-After`.
    BackingOff {
        /// The end of this state.
        until: Duration,
    },
}

impl Health {
    /// Returns the state at `now`. The settings of an operator have precedence.
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
}
