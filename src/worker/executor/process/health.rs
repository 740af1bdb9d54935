//! `Health`: checks of a process that has had no request for some time.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::worker::process::HEALTH_TIMEOUT;

/// When a process without requests is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HealthCheck {
    /// The time without a request, and between two checks. `None`: never.
    pub(crate) interval: Option<Duration>,
    /// The time in which the process must answer.
    pub(crate) timeout: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: None, timeout: HEALTH_TIMEOUT }
    }
}

/// The checks of one process. Its lanes share them: one of them checks at a time, and only while none has a request.
pub(super) struct Health {
    interval: Duration,
    pub(super) timeout: Duration,
    state: Mutex<State>,
    /// Whether the process has not answered its last check.
    is_hung: AtomicBool,
    has_hung: Notify,
}

struct State {
    /// The number of lanes with a request.
    busy: usize,
    /// The number of requests that were begun.
    begun: u64,
    is_checked: bool,
    /// The end of the last request or check.
    since: Instant,
}

/// What an idle lane has to do.
pub(super) enum Event<'a> {
    /// Check the process.
    Check(Claim<'a>),
    /// Wait, since the process does not answer.
    Hung,
}

impl Health {
    /// Creates the state of a process that is ready; `None` if it is not checked.
    pub(super) fn new(check: HealthCheck) -> Option<Self> {
        let state = State { busy: 0, begun: 0, is_checked: false, since: Instant::now() };
        Some(Self {
            interval: check.interval?,
            timeout: check.timeout,
            state: Mutex::new(state),
            is_hung: AtomicBool::new(false),
            has_hung: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a lane begins a request, which ends when the returned value is dropped.
    pub(super) fn begin(&self) -> Busy<'_> {
        let mut state = self.state();
        state.busy += 1;
        state.begun += 1;
        Busy(self)
    }

    /// Waits until the calling lane must check the process, or another one has found that it does not answer.
    pub(super) async fn event(&self) -> Event<'_> {
        let mut hung = std::pin::pin!(self.has_hung.notified());
        hung.as_mut().enable(); // before the check of the flag, so that no notification is missed
        if self.is_hung() {
            return Event::Hung;
        }
        loop {
            let at = match self.claim(Instant::now()) {
                Ok(claim) => return Event::Check(claim),
                Err(at) => at,
            };
            tokio::select! {
                () = &mut hung => return Event::Hung,
                () = sleep_until(at) => {}
            }
        }
    }

    /// Begins a check if one is due at `now`.
    ///
    /// # Errors
    /// The time at which one may be due.
    pub(super) fn claim(&self, now: Instant) -> Result<Claim<'_>, Instant> {
        let mut state = self.state();
        let at = state.since + self.interval;
        if state.busy > 0 || state.is_checked {
            return Err(at.max(now + self.interval));
        }
        if at > now {
            return Err(at);
        }
        state.is_checked = true;
        Ok(Claim { health: self, begun: state.begun })
    }

    pub(super) fn is_hung(&self) -> bool {
        self.is_hung.load(Ordering::Relaxed)
    }
}

/// A request of a lane.
pub(super) struct Busy<'a>(&'a Health);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.busy -= 1;
        state.since = Instant::now();
    }
}

/// A check that a lane has begun.
pub(super) struct Claim<'a> {
    health: &'a Health,
    begun: u64,
}

impl Claim<'_> {
    /// Returns whether no request was begun meanwhile. Otherwise a process that does not answer may just be busy.
    pub(super) fn is_conclusive(&self) -> bool {
        self.health.state().begun == self.begun
    }

    /// Records whether the process does not answer, and tells the other lanes.
    pub(super) fn set_hung(&self, is_hung: bool) {
        self.health.is_hung.store(is_hung, Ordering::Relaxed);
        if is_hung {
            self.health.has_hung.notify_waiters();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = self.health.state();
        state.is_checked = false;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn health() -> Health {
        Health::new(HealthCheck { interval: Some(INTERVAL), ..HealthCheck::default() }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn process_is_checked_by_one_lane_and_only_without_requests() {
        let (health, began) = (health(), Instant::now());
        let Event::Check(claim) = health.event().await else { panic!("it is due") };
        assert_eq!(began.elapsed(), INTERVAL);
        assert!(health.claim(Instant::now() + INTERVAL).is_err(), "another lane checks it");
        drop(claim);
        let busy = health.begin();
        assert!(health.claim(Instant::now() + INTERVAL).is_err(), "it has a request");
        tokio::time::advance(INTERVAL).await;
        drop(busy);
        let ended = Instant::now();
        assert!(matches!(health.event().await, Event::Check(_)));
        assert_eq!(ended.elapsed(), INTERVAL, "after the request");
    }

    #[tokio::test(start_paused = true)]
    async fn check_during_which_a_request_begins_shows_nothing() {
        let health = health();
        let Event::Check(claim) = health.event().await else { panic!("it is due") };
        assert!(claim.is_conclusive());
        drop(health.begin());
        assert!(!claim.is_conclusive());
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_are_all_told_of_a_process_that_does_not_answer() {
        let health = health();
        let Event::Check(claim) = health.event().await else { panic!("it is due") };
        let other = health.event();
        tokio::pin!(other);
        assert!(tokio::time::timeout(INTERVAL / 2, &mut other).await.is_err());
        claim.set_hung(true);
        assert!(matches!(other.await, Event::Hung));
        assert!(matches!(health.event().await, Event::Hung), "also one that comes later");
    }
}
