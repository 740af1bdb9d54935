//! The status of a pool's workers, as its supervisor knows it.

use std::time::Instant;

use super::{
    GiveUp, Phase, Startup, Supervisor,
    slot::{Slot, State},
};

impl Supervisor {
    /// Returns whether the first start of all workers has succeeded.
    pub(crate) fn startup(&self) -> Startup {
        match self.phase {
            Phase::Starting => Startup::Pending,
            _ if self.has_failed_to_start => Startup::Failed,
            Phase::Running | Phase::Draining | Phase::Ending => Startup::Ready,
        }
    }

    /// Returns whether all slots have failed too often, so that no request is answered until one of their workers is
    /// ready.
    pub(crate) fn has_failed(&self) -> bool {
        let Some(GiveUp { failures, .. }) = self.config.give_up else { return false };
        self.ready() == 0 && self.used_slots().all(|slot| slot.failures >= failures)
    }

    /// Returns whether a worker that exits now is started again.
    #[cfg_attr(not(feature = "process"), allow(dead_code, reason = "processes need it"))]
    pub(crate) fn restarts_workers(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Draining)
    }

    /// Returns whether all workers have exited and none will be started.
    pub(crate) fn is_ended(&self) -> bool {
        self.phase == Phase::Ending && self.alive() == 0
    }

    /// Returns the number of workers that have not exited, including abandoned ones.
    pub(crate) fn alive(&self) -> usize {
        let leaving = self.leaving.iter().copied();
        let states = self.slots.iter().flat_map(Slot::states).chain(leaving);
        self.abandoned.len() + states.filter(|state| state.id().is_some()).count()
    }

    /// Returns the number of workers that are idle or run a request.
    pub(crate) fn ready(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state.is_ready()).count()
    }

    /// Returns the number of workers that were ready and exited without being stopped.
    pub(crate) fn unexpected_exits(&self) -> u64 {
        self.unexpected_exits
    }

    /// Returns the number of workers past their request timeout and grace period: abandoned ones that have not
    /// exited, and those that may not be abandoned because of the bound.
    pub(crate) fn stuck(&self, now: Instant) -> usize {
        let is_overdue = |s: &&State| s.abandon_at().is_some_and(|at| at <= now);
        let states = self.slots.iter().map(|s| &s.state).chain(&self.leaving);
        self.abandoned.len() + states.filter(is_overdue).count()
    }

    /// Returns the total number of abandoned workers.
    pub(crate) fn abandoned_total(&self) -> u64 {
        self.abandoned_total
    }
}
