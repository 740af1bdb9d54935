//! The number of workers: growth with demand, and shrinking of what is idle.

use std::time::{Duration, Instant};

use super::{
    Phase, Supervisor, after,
    slot::{Slot, State},
};

/// How the number of workers follows the demand, beyond those that are always there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Workers at most. Fewer than those that are always there count as so many.
    pub(crate) max: usize,
    /// Workers that should be idle: more are started when fewer are.
    pub(crate) spare: usize,
    /// How long a worker beyond the spare ones has no request before it is ended.
    pub(crate) idle_timeout: Duration,
}

impl Scale {
    /// A pool of one size.
    pub(crate) const FIXED: Self = Self { max: 0, spare: 0, idle_timeout: Duration::MAX };

    /// How often idle workers are looked for. One is ended after half as long again as the timeout, at most.
    fn interval(&self) -> Duration {
        (self.idle_timeout / 2).max(Duration::from_millis(1))
    }
}

/// Workers of the slots by what they do.
#[derive(Debug, Clone, Copy, Default)]
struct Census {
    idle: usize,
    ready: usize,
    /// They start, or will.
    coming: usize,
}

impl Supervisor {
    /// So many requests wait for a worker.
    pub(crate) fn on_demand(&mut self, queued: usize) {
        self.queued = queued;
    }

    /// Whether a worker may have to be added when so many are idle and so many requests wait.
    pub(crate) fn may_grow(&self, idle: usize, queued: usize) -> bool {
        self.can_grow && idle < self.config.scale.spare.saturating_add(queued)
    }

    /// Adds workers while more are needed than are idle or on their way. There are never more on their way
    /// than are ready: a pool doubles at most in the time in which a worker starts, so that many starts do not
    /// take the processor from requests.
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

    /// Ends workers that are not needed, those without a request for longest first. Neither workers nor ready
    /// workers become fewer than are always there.
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

    /// Whether one of so many idle workers may be one too many, and [`poll`](Self::poll) does not know yet.
    pub(crate) fn may_shrink(&self, idle: usize) -> bool {
        let is_new = self.used > self.config.workers && self.shrink_at.is_none();
        is_new && idle > self.config.scale.spare && self.is_scaling()
    }

    /// Whether there are more workers than are always there, and more of them idle than are needed.
    fn has_surplus(&self) -> bool {
        let is_larger = self.used > self.config.workers;
        is_larger && self.is_scaling() && {
            let Census { idle, coming, .. } = self.census();
            idle + coming > self.config.scale.spare.saturating_add(self.queued)
        }
    }

    /// Whether the number of workers may change now. Not during a reload: both generations have the same.
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
