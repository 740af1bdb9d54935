//! Scaling: workers are added with the demand, and stopped when they are idle.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

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

/// Workers that can be stopped only together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Process(u64),
    Slot(usize),
}

/// The slots of a process that may not be needed.
#[derive(Debug, Default)]
struct Candidate {
    slots: Vec<usize>,
    idle: usize,
    /// The time at which one of its workers was last used.
    used_at: Option<Instant>,
    /// Whether one of its workers is used or was idle for a short time only.
    is_needed: bool,
}

/// The slots of a process that is not needed.
enum Unneeded {
    Slots(Vec<usize>),
    /// There may be one when its workers have been idle for longer.
    NoneYet,
    /// Each process has more workers than are unneeded.
    NoneFits,
}

/// The number of workers in slots, by state.
#[derive(Debug, Clone, Copy, Default)]
struct Census {
    /// Without those that take no requests.
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
        while self.used + self.leaving.len() < self.config.max_workers()
            && census.coming < census.ready.max(1)
        {
            if census.idle + census.coming >= self.config.scale.spare.saturating_add(self.queued) {
                self.can_grow = true;
                return;
            }
            match self.slots.iter_mut().find(|slot| slot.is_unused()) {
                Some(unused) => *unused = Slot::vacant(now),
                None => self.slots.push(Slot::vacant(now)),
            }
            self.used += 1;
            census.coming += 1;
        }
    }

    /// Stops workers that are not needed, those of the process that was idle longest first. Neither the workers nor the ready ones
    /// become fewer than the minimum.
    pub(super) fn poll_shrink(&mut self, now: Instant) {
        if self.is_unshrinkable || !self.has_surplus() {
            self.shrink_at = None;
            return;
        }
        let scale = self.config.scale;
        let next = after(now, scale.interval());
        if *self.shrink_at.get_or_insert(next) > now {
            return;
        }
        loop {
            let unneeded = match self.unneeded(now) {
                Unneeded::Slots(slots) => slots,
                Unneeded::NoneYet => break,
                Unneeded::NoneFits => {
                    self.is_unshrinkable = true;
                    break;
                }
            };
            for slot in unneeded {
                let old = std::mem::replace(&mut self.slots[slot], Slot::unused(now));
                self.used -= 1;
                let states = old.states().into_iter().filter(|state| state.id().is_some());
                self.leaving.extend(states);
                if let Some(id) = old.state.id() {
                    self.close_process(id);
                }
            }
        }
        let may_shrink = !self.is_unshrinkable && self.has_surplus();
        self.shrink_at = may_shrink.then_some(next);
    }

    /// Returns the slots of the process that is not needed and was idle longest. A worker without others in its process
    /// counts as a process.
    fn unneeded(&self, now: Instant) -> Unneeded {
        let surplus = self.surplus();
        if surplus == 0 {
            return Unneeded::NoneYet;
        }
        let Scale { idle_timeout, .. } = self.config.scale;
        let may_lose_ready = self.census().ready.saturating_sub(self.config.workers);
        let mut processes: HashMap<Key, Candidate> = HashMap::new();
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, slot)| !slot.is_unused()) {
            let process = slot.state.id().and_then(|id| self.processes.of(id));
            let key = process.map_or(Key::Slot(at), Key::Process);
            let candidate = processes.entry(key).or_default();
            let is_idle = matches!(slot.state, State::Idle { .. });
            let is_old = after(slot.used_at, idle_timeout) <= now;
            candidate.is_needed |=
                !(is_old && (is_idle || matches!(slot.state, State::Vacant { .. })));
            candidate.idle += usize::from(is_idle);
            candidate.used_at = candidate.used_at.max(Some(slot.used_at));
            candidate.slots.push(at);
        }
        let is_unneeded = |candidate: &Candidate| {
            !candidate.is_needed
                && candidate.slots.len() <= surplus
                && candidate.idle <= may_lose_ready
        };
        let may_fit_later = processes.values().any(|candidate| candidate.is_needed);
        let unneeded = processes.into_values().filter(is_unneeded);
        match unneeded.min_by_key(|candidate| (candidate.used_at, candidate.slots[0])) {
            Some(unneeded) => Unneeded::Slots(unneeded.slots),
            None if may_fit_later => Unneeded::NoneYet,
            None => Unneeded::NoneFits,
        }
    }

    /// Returns whether this number of idle workers may be too high, and [`poll`](Self::poll) must be called for it.
    pub(crate) fn may_shrink(&self, idle: usize) -> bool {
        let is_new = self.used > self.config.workers && self.shrink_at.is_none();
        is_new && !self.is_unshrinkable && idle > self.config.scale.spare && self.is_scaling()
    }

    /// Returns whether there are more workers than the minimum, and more of them idle than needed.
    fn has_surplus(&self) -> bool {
        self.surplus() > 0
    }

    /// Returns the number of workers beyond the minimum, and beyond the idle ones that are needed.
    fn surplus(&self) -> usize {
        if self.used <= self.config.workers || !self.is_scaling() {
            return 0;
        }
        let Census { idle, coming, .. } = self.census();
        let needed = self.config.scale.spare.saturating_add(self.queued);
        (idle + coming).saturating_sub(needed).min(self.used - self.config.workers)
    }

    /// Returns whether the number of workers may change. It does not during a reload, when both generations have the
    /// same number.
    fn is_scaling(&self) -> bool {
        let is_elastic = self.config.max_workers() > self.config.workers;
        is_elastic && self.phase == Phase::Running && self.reload.is_none()
    }

    /// Returns the number of idle workers that take requests.
    pub(crate) fn idle(&self) -> usize {
        self.census().idle
    }

    fn census(&self) -> Census {
        let mut census = Census::default();
        for slot in &self.slots {
            census.ready += usize::from(slot.state.is_ready());
            match slot.state {
                State::Idle { .. } => census.idle += usize::from(!slot.is_hung),
                State::Vacant { .. } | State::Starting { .. } => census.coming += 1,
                State::Unused | State::Busy { .. } | State::Exiting { .. } => {}
            }
        }
        census
    }
}
