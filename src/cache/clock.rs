//! `Clock`: the monotonic time of a cache.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{net::clock, semantics::date::HttpDate};

/// A clock that starts at the wall clock's time and advances with the monotonic clock, so that ages stay correct when the wall
/// clock is adjusted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    epoch: Duration,
    started: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { epoch, started: clock::now() }
    }

    /// Returns the time since the Unix epoch.
    pub(super) fn now(&self) -> Duration {
        self.epoch + clock::now().saturating_duration_since(self.started)
    }

    /// Returns the time of the wall clock, for comparison with dates of other machines.
    pub(super) fn date() -> HttpDate {
        HttpDate::from(SystemTime::now())
    }
}
