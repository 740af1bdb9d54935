//! `Clock`: the time of a cache, which never steps back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{net::clock, semantics::date::HttpDate};

/// Counts from the wall clock's time at its creation, by the monotonic clock. So an age is right after the wall clock
/// was set.
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

    /// Returns the time of the wall clock, with which dates of other machines are compared.
    pub(super) fn date(&self) -> HttpDate {
        HttpDate::from(SystemTime::now())
    }
}
