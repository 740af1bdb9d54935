//! Scaling: workers are added with the demand, and stopped when they are idle.

use std::time::{Duration, Instant};

use super::{
    Phase, Supervisor, after,
    slot::{Slot, State},
};

/// The limits of scaling.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Maximum number of workers. A number below the minimum counts as the minimum.
    pub(crate) max: usize,
    /// The number of idle workers to keep.
    pub(crate) spare: usize,
    /// The idle time after which a worker beyond the spare ones is stopped.
    pub(crate) idle_timeout: Duration,
}

impl Scale {
    /// A pool of constant size.
    pub(crate) const FIXED: Self = Self { max: 0, spare: 0, idle_timeout: Duration::MAX };

    /// Returns the interval of checks for idle workers. So a worker is stopped after 1.5 times the timeout at the
    /// latest.
    fn interval(&self) -> Duration {
        (self.idle_timeout / 2).max(Duration::from_millis(1))
    }
}

/// The number of workers in slots, by state.
#[derive(Debug, Clone, Copy, Default)]
struct Census {
    idle: usize,
    ready: usize,
    /// Starting, or about to be started.
    coming: usize,
}

impl Supervisor {
    /// Reports the number of queued requests.
    pub(crate) fn on_demand(&mut self, queued: usize) {
        self.queued = queued;
    }

    /// Returns whether a worker may have to be added for these numbers of idle workers and queued requests.
    pub(crate) fn may_grow(&self, idle: usize, queued: usize) -> bool {
        self.can_grow && idle < self.config.scale.spare.saturating_add(queued)
    }

    /// Adds workers while more are needed than are idle or starting. At most as many start at a time as are ready, so
    /// a pool at most doubles in the time that a start takes, and starting workers do not take the CPU from requests.
    pub(super) fn poll_growth(&mut self, now: Instant) {
        self.can_grow = false;
        if !self.is_scaling() {
            return;
        }
        let mut census = self.census();
        while self.used + self.leaving.len() < self.slots.len()
            && census.coming < census.ready.max(1)
        {
            if census.idle + census.coming >= self.config.scale.spare.saturating_add(self.queued) {
                self.can_grow = true;
                return;
            }
            let unused = self.slots.iter_mut().find(|slot| slot.is_unused());
            *unused.expect("fewer are used than there are") = Slot::vacant(now);
            self.used += 1;
            census.coming += 1;
        }
    }

    /// Stops workers that are not needed, those that were idle longest first. Neither the workers nor the ready ones
    /// become fewer than the minimum.
    pub(super) fn poll_shrink(&mut self, now: Instant) {
        if !self.has_surplus() {
            self.shrink_at = None;
            return;
        }
        let scale = self.config.scale;
        let next = after(now, scale.interval());
        if *self.shrink_at.get_or_insert(next) > now {
            return;
        }
        while self.has_surplus() {
            let may_lose_ready = self.census().ready > self.config.workers;
            let is_old = |slot: &Slot| after(slot.used_at, scale.idle_timeout) <= now;
            let is_unneeded = |slot: &&mut Slot| match slot.state {
                State::Idle { .. } => may_lose_ready && is_old(slot),
                State::Vacant { .. } => is_old(slot),
                State::Unused
                | State::Starting { .. }
                | State::Busy { .. }
                | State::Exiting { .. } => false,
            };
            let unneeded = self.slots.iter_mut().filter(is_unneeded);
            let Some(slot) = unneeded.min_by_key(|slot| slot.used_at) else { break };
            let old = std::mem::replace(slot, Slot::unused(now));
            self.used -= 1;
            self.leaving.extend(old.states().into_iter().filter(|state| state.id().is_some()));
        }
        self.shrink_at = self.has_surplus().then_some(next);
    }

    /// Returns whether this number of idle workers may be too high, and [`poll`](Self::poll) must be called for it.
    pub(crate) fn may_shrink(&self, idle: usize) -> bool {
        let is_new = self.used > self.config.workers && self.shrink_at.is_none();
        is_new && idle > self.config.scale.spare && self.is_scaling()
    }

    /// Returns whether there are more workers than the minimum, and more of them idle than needed.
    fn has_surplus(&self) -> bool {
        let is_larger = self.used > self.config.workers;
        is_larger && self.is_scaling() && {
            let Census { idle, coming, .. } = self.census();
            idle + coming > self.config.scale.spare.saturating_add(self.queued)
        }
    }

    /// Returns whether the number of workers may change. It does not during a reload, when both generations have the
    /// same number.
    fn is_scaling(&self) -> bool {
        let is_elastic = self.slots.len() > self.config.workers;
        is_elastic && self.phase == Phase::Running && self.reload.is_none()
    }

    fn census(&self) -> Census {
        let mut census = Census::default();
        for slot in &self.slots {
            census.ready += usize::from(slot.state.is_ready());
            match slot.state {
                State::Idle { .. } => census.idle += 1,
                State::Vacant { .. } | State::Starting { .. } => census.coming += 1,
                State::Unused | State::Busy { .. } | State::Exiting { .. } => {}
            }
        }
        census
    }
}
