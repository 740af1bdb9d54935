//! Events: what happens to workers, and to the pool.

use std::time::Instant;

use super::{
    Allowance, Config, Phase, Supervisor, WorkerId, after,
    slot::{Slot, State},
};

impl Supervisor {
    /// Records that worker `id` has built its application.
    pub(crate) fn on_ready(&mut self, id: WorkerId, now: Instant) {
        let old_at = self.config.recycle.old_at(now);
        self.is_unshrinkable = false;
        let Some(slot) = self.slot(id) else { return self.on_successor_ready(id, now) };
        slot.install(id, now, old_at);
        self.check_outdated(id);
        self.check_closing(id);
        let is_ready = |s: &Slot| !matches!(s.state, State::Vacant { .. } | State::Starting { .. });
        if self.phase == Phase::Starting && self.slots.iter().all(is_ready) {
            self.phase = Phase::Running;
        }
    }

    /// Records that worker `id` begins a request with this deadline. Returns the time that the request may take.
    pub(crate) fn on_begin(
        &mut self,
        id: WorkerId,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Allowance {
        self.is_unshrinkable = false;
        let last = after(now, self.config.request_timeout);
        let until = deadline.map_or(last, |d| d.min(last));
        let abandon_at = after(last, self.config.grace);
        let busy = State::Busy { id, abort_at: Some(until), abandon_at };
        if let Some(slot) = self.slot(id) {
            slot.state = busy;
            slot.used_at = now;
            slot.is_hung = false;
        } else if let Some(state) = self.leaving.iter_mut().find(|state| state.id() == Some(id)) {
            // It had begun the request before it was told to exit.
            *state = busy;
            if let Some(end) = self.drain_ends.get(&id) {
                state.limit(*end);
            }
        }
        Allowance { until, total: until.saturating_duration_since(now) }
    }

    /// Records that worker `id` has ended its request; `crashed` if it panicked. Returns whether it may take another
    /// one; otherwise it must exit.
    pub(crate) fn on_done(&mut self, id: WorkerId, crashed: bool) -> bool {
        let recycle = self.config.recycle;
        let is_leaving = self.slot(id).is_none();
        if !crashed && let Some(slot) = self.slot(id) {
            slot.complete(id);
            let is_new = slot.is_served_out(id, &recycle) && slot.nominate();
            self.has_nominated |= is_new;
            self.choose_mould(id);
            return true;
        }
        self.close_process(id);
        let mut states = self.slots.iter_mut().map(|s| &mut s.state).chain(&mut self.leaving);
        if let Some(state) = states.find(|state| state.id() == Some(id))
            && let Some(abandon_at) = state.abandon_at()
        {
            *state = State::Exiting { id, abandon_at };
        }
        !crashed && !is_leaving
    }

    /// Records that worker `id` has exited, or could not be started.
    pub(crate) fn on_exit(&mut self, id: WorkerId, now: Instant) {
        self.abandoned.retain(|abandoned| *abandoned != id);
        self.leave_process(id);
        self.is_unshrinkable = false;
        let Config { backoff, give_up, stable_after, .. } = self.config;
        self.leaving.retain(|state| state.id() != Some(id));
        self.drain_ends.remove(&id);
        self.check_mould_exit(id);
        let is_working = matches!(self.phase, Phase::Starting | Phase::Running);
        let Some(slot) = self.slot(id) else { return self.on_successor_exit(id, now) };
        // It may exit just before it is stopped for the restart.
        let is_restarted = std::mem::take(&mut slot.is_restarting);
        let is_unexpected = is_working && slot.state.is_ready() && !is_restarted;
        slot.forget_failures(now, stable_after);
        let pause = backoff.delay(slot.failures);
        slot.failures = slot.failures.saturating_add(1);
        let pause = give_up.filter(|g| slot.failures >= g.failures).map_or(pause, |g| g.pause);
        slot.state = State::Vacant { start_at: after(now, pause) };
        self.unexpected_exits += u64::from(is_unexpected);
        self.adopt_successor(id.slot, now);
        if self.phase == Phase::Starting {
            self.fail_to_start();
        }
    }

    /// Records that the pool was closed.
    pub(crate) fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting => self.fail_to_start(),
            Phase::Running => {
                self.phase = Phase::Draining;
                self.stop_renewal(now);
            }
            Phase::Draining | Phase::Ending => {}
        }
    }

    /// Records that the queue of the closed pool is empty.
    pub(crate) fn on_drained(&mut self) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Ending;
        }
    }

    fn fail_to_start(&mut self) {
        self.phase = Phase::Ending;
        self.has_failed_to_start = true;
    }
}
