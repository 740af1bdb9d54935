//! `Clock`: the time of a cache.

use std::{
    sync::{
        LazyLock,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{net::clock, semantics::date::HttpDate};

/// The interval at which the wall clock is compared with the monotonic clock, 1 second, and the step forwards above which it
/// counts.
const STEP: Duration = Duration::from_secs(1);

/// The maximum time between the readings of both clocks, 100 milliseconds. If the thread was preempted for longer in between,
/// they are not compared.
const MAX_READ_TIME: Duration = Duration::from_millis(100);

/// A clock that starts at the wall clock's time and advances with the monotonic clock, so that a wall clock that is set back
/// makes no stale response fresh.
///
/// The monotonic clock stands still while the system sleeps (`CLOCK_MONOTONIC`), and while a virtual machine is paused. So a
/// step of the wall clock forwards is added, as time that has passed. If it was a correction of a wrong time, responses count as
/// older than they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    epoch: Duration,
    started: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        // Compares the clocks, so that a step before is in the total as it is in the time of the wall clock.
        let wall = STEPS.read().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { epoch: wall.saturating_sub(STEPS.total()), started: clock::now() }
    }

    /// Returns the time since the Unix epoch.
    pub(super) fn now(&self) -> Duration {
        let now = clock::now();
        STEPS.check(now);
        self.epoch + now.saturating_duration_since(self.started) + STEPS.total()
    }

    /// Returns the time of the wall clock, for comparison with dates of other machines.
    pub(super) fn date() -> HttpDate {
        HttpDate::from(SystemTime::now())
    }
}

/// The steps of the process's wall clock.
static STEPS: LazyLock<Steps> = LazyLock::new(|| Steps::new(Instant::now(), SystemTime::now()));

/// The steps of the wall clock forwards, relative to the monotonic clock.
struct Steps {
    started: Instant,
    wall_started: SystemTime,
    /// The sum of all steps, in nanoseconds.
    total: AtomicU64,
    /// By how many nanoseconds the wall clock has advanced more than the monotonic clock, at the last comparison.
    ahead: AtomicI64,
    /// The time of the next comparison, in nanoseconds since the start.
    next_check: AtomicU64,
}

impl Steps {
    fn new(started: Instant, wall_started: SystemTime) -> Self {
        let (total, ahead, next_check) = Default::default();
        Self { started, wall_started, total, ahead, next_check }
    }

    fn total(&self) -> Duration {
        Duration::from_nanos(self.total.load(Relaxed))
    }

    /// Compares the clocks, once in [`STEP`]. `now` is the time of the runtime, which tests can pause.
    fn check(&self, now: Instant) {
        let at = nanos(now.saturating_duration_since(self.started));
        let due = self.next_check.load(Relaxed);
        if at < due {
            return;
        }
        let next = at.saturating_add(nanos(STEP));
        if self.next_check.compare_exchange(due, next, AcqRel, Relaxed).is_ok() {
            self.read();
        }
    }

    /// Reads and compares the clocks. Returns the time of the wall clock.
    fn read(&self) -> SystemTime {
        let before = Instant::now();
        let wall = SystemTime::now();
        if before.elapsed() < MAX_READ_TIME {
            self.compare(before, wall);
        }
        wall
    }

    fn compare(&self, monotonic: Instant, wall: SystemTime) {
        let signed = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let monotonic = signed(monotonic.saturating_duration_since(self.started));
        let wall = match wall.duration_since(self.wall_started) {
            Ok(time) => signed(time),
            Err(error) => -signed(error.duration()),
        };
        let ahead = wall.saturating_sub(monotonic);
        let step = ahead.saturating_sub(self.ahead.swap(ahead, AcqRel));
        if let Ok(step) = u64::try_from(step)
            && step > nanos(STEP)
        {
            self.total.fetch_add(step, Relaxed);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn clock_adds_steps_of_the_wall_clock_forwards_only() {
        let (started, wall_started) = (Instant::now(), SystemTime::now());
        let steps = Steps::new(started, wall_started);
        // The monotonic and the wall clock, relative to the start, and the expected sum of steps, in seconds.
        let readings: [(u64, i64, u64); 7] = [
            (5, 5, 0),
            (6, 6, 0),
            (7, 3607, 3600), // the system has slept
            (8, 3608, 3600),
            (9, -9, 3600),   // set back
            (10, 592, 4200), // has slept again
            (3610, 4192, 4200),
        ];
        for (monotonic, wall, total) in readings {
            let offset = SEC * u32::try_from(wall.unsigned_abs()).unwrap();
            let wall = if wall < 0 { wall_started - offset } else { wall_started + offset };
            steps.compare(started + Duration::from_secs(monotonic), wall);
            assert_eq!(steps.total(), Duration::from_secs(total), "at {monotonic} s");
        }
        // The clock is slewed, or the readings are not of the same time.
        steps.compare(started + 3611 * SEC, wall_started + 4193 * SEC + SEC / 2);
        assert_eq!(steps.total(), 4200 * SEC);
    }

    #[test]
    fn clocks_are_compared_once_a_second() {
        let started = Instant::now();
        let steps = Steps::new(started, SystemTime::now());
        for (millis, next) in [(0, 1000), (999, 1000), (1000, 2000), (5500, 6500)] {
            steps.check(started + Duration::from_millis(millis));
            assert_eq!(steps.next_check.load(Relaxed), next * 1_000_000);
        }
    }
}
