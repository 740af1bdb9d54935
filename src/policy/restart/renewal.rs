//! Replacement of workers that have not failed: recycling, and reloads by generation.

use std::time::{Duration, Instant};

use super::{
    Action, Phase, Supervisor, WorkerId, after,
    refork::Mould,
    slot::{Slot, State, Successor},
};

/// A reload in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reload {
    generation: u64,
    /// The time for the successors to become ready, after the start of the last one.
    timeout: Duration,
    /// The time by which all successors must be ready. `None` until the last one is started, which may have to wait for
    /// workers of earlier generations.
    until: Option<Instant>,
    /// The end of the wait for workers that were stopped, if they prevent a start.
    blocked_until: Option<Instant>,
}

impl Reload {
    /// Returns the time at which it fails.
    fn end(&self) -> Option<Instant> {
        self.until.or(self.blocked_until)
    }
}

/// The result of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// The new generation has taken the slots.
    Ready,
    /// A worker of the new generation exited before it was ready; the old generation continues.
    Exited,
    /// The new generation was not ready in time; the old generation continues.
    TimedOut,
    /// The pool was closed.
    Closed,
}

/// The answer to a worker that asks for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It may take a request.
    Take,
    /// It must wait until its whole generation is ready.
    Wait,
    /// It has no slot and must exit.
    Exit,
}

impl Supervisor {
    /// Reports the memory of worker `id` in bytes.
    pub(crate) fn on_memory(&mut self, id: WorkerId, bytes: u64) {
        let limit = self.config.recycle.memory;
        if let Some(slot) = self.slot(id)
            && limit.is_some_and(|limit| bytes > limit)
        {
            let is_new = slot.nominate();
            self.has_nominated |= is_new;
        }
    }

    /// Records that worker `id` has failed a check. Returns whether it was not nominated before.
    pub(crate) fn on_unhealthy(&mut self, id: WorkerId) -> bool {
        let is_new = self.slot(id).is_some_and(|slot| slot.nominate());
        self.has_nominated |= is_new;
        is_new
    }

    /// Records that worker `id` takes no requests, since its process does not answer. Until it begins one, it does not count
    /// as idle. Returns whether it did before.
    pub(crate) fn on_hung(&mut self, id: WorkerId) -> bool {
        self.slot(id).is_some_and(|slot| !std::mem::replace(&mut slot.is_hung, true))
    }

    /// Returns whether a worker was nominated since the last call, so that [`poll`](Self::poll) may return an action.
    pub(crate) fn take_nominated(&mut self) -> bool {
        std::mem::take(&mut self.has_nominated)
    }

    /// Begins to replace all workers by a new generation, which must be ready within `timeout` after its last worker was
    /// started.
    /// [`take_reloaded`](Self::take_reloaded) returns the result. Returns `false`, without effect, before all workers
    /// are ready for the first time, during another reload, and after [`close`](Self::close).
    pub(crate) fn reload(&mut self, timeout: Duration) -> bool {
        if self.phase != Phase::Running || self.reload.is_some() {
            return false;
        }
        self.last_generation += 1;
        let (generation, until, blocked_until) = (self.last_generation, None, None);
        self.reload = Some(Reload { generation, timeout, until, blocked_until });
        true
    }

    /// Stops all workers and starts each again, as a new generation, when it has exited: there are never more than
    /// `workers`. Returns `false`, without effect, before all workers are ready for the first time, during a reload,
    /// and after [`close`](Self::close).
    pub(crate) fn restart(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Running || self.reload.is_some() {
            return false;
        }
        self.last_generation += 1;
        self.generation = self.last_generation;
        self.mould = Mould::None;
        self.slots.iter_mut().filter(|slot| !slot.is_unused()).for_each(|slot| slot.restart(now));
        true
    }

    /// Returns the result of the last reload, once.
    pub(crate) fn take_reloaded(&mut self) -> Option<Reloaded> {
        self.reloaded.take()
    }

    /// Returns whether worker `id`, which is ready, may take a request.
    pub(crate) fn claim(&self, id: WorkerId) -> Claim {
        let Some(slot) = self.slots.get(id.slot) else { return Claim::Exit };
        if slot.state.id() == Some(id) {
            Claim::Take
        } else if slot.successor.state.id() == Some(id) {
            Claim::Wait
        } else {
            Claim::Exit
        }
    }

    /// Returns the total number of recycled workers.
    pub(crate) fn recycled_total(&self) -> u64 {
        self.recycled_total
    }

    /// Returns whether workers of this generation may be started: the current one, and that of a reload in progress.
    pub(crate) fn starts_generation(&self, generation: u64) -> bool {
        let is_reloading = self.reload.is_some_and(|reload| reload.generation == generation);
        generation == self.generation || is_reloading
    }

    /// Returns the current generation: 0, and one more for each attempted reload.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn on_successor_ready(&mut self, id: WorkerId, now: Instant) {
        let Some(successor) = self.successor(id) else { return };
        successor.state = State::Idle { id };
        if id.generation == self.generation {
            self.recycled_total += 1;
            return self.promote(id.slot, now);
        }
        let is_waiting = |s: &Successor| matches!(s.state, State::Idle { id: other } if other.generation == id.generation);
        if self.used_slots().all(|slot| is_waiting(&slot.successor)) {
            self.generation = id.generation;
            self.mould = Mould::None;
            (0..self.slots.len()).for_each(|slot| self.promote(slot, now));
            self.end_reload(Reloaded::Ready);
        }
    }

    /// Gives the slot to its successor, which is ready. The old worker finishes its request and exits.
    fn promote(&mut self, slot: usize, now: Instant) {
        let old_at = self.config.recycle.old_at(now);
        let slot = &mut self.slots[slot];
        let Some(id) = slot.successor.state.id() else { return };
        let mut old = slot.state;
        if let Some((timeout, id)) = self.config.drain_timeout.zip(old.id()) {
            let end = after(now, timeout);
            old.limit(end);
            self.drain_ends.insert(id, end);
        }
        slot.failures = 0;
        slot.install(id, now, old_at);
        slot.successor = Successor { state: State::Vacant { start_at: now }, failures: 0 };
        if old.id().is_some() {
            self.leaving.push(old);
        }
        self.check_outdated(id);
        self.check_closing(id);
    }

    pub(super) fn on_successor_exit(&mut self, id: WorkerId, now: Instant) {
        let backoff = self.config.backoff;
        let Some(successor) = self.successor(id) else { return };
        successor.failures = successor.failures.saturating_add(1);
        let start_at = after(now, backoff.delay(successor.failures));
        successor.state = State::Vacant { start_at };
        if self.reload.is_some_and(|reload| reload.generation == id.generation) {
            self.stop_successors(now);
            self.end_reload(Reloaded::Exited);
        }
    }

    /// Gives the slot of an exited worker to its successor, which may still be starting.
    pub(super) fn adopt_successor(&mut self, slot: usize, now: Instant) {
        let slot = &mut self.slots[slot];
        if self.reload.is_none() && slot.successor.state.id().is_some() {
            slot.state = slot.successor.state;
            slot.successor.state = State::Vacant { start_at: now };
        }
    }

    /// Ends recycling and any reload, since the pool is closed.
    pub(super) fn stop_renewal(&mut self, now: Instant) {
        self.stop_successors(now);
        if self.reload.is_some() {
            self.end_reload(Reloaded::Closed);
        }
    }

    fn stop_successors(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if slot.successor.state.id().is_some() {
                self.leaving.push(slot.successor.state);
                slot.successor.state = State::Vacant { start_at: now };
            }
        }
    }

    fn end_reload(&mut self, how: Reloaded) {
        self.reload = None;
        self.reloaded = Some(how);
    }

    pub(super) fn poll_reload(&mut self, now: Instant) {
        self.check_blocked(now);
        let Some(reload) = self.reload else { return };
        let Reload { generation, .. } = reload;
        let is_late = |slot: &Slot| {
            let state = slot.successor.state;
            state.is_late(now) && state.id().is_some_and(|id| id.generation == generation)
        };
        if reload.end().is_some_and(|end| end <= now) || self.slots.iter().any(is_late) {
            self.stop_successors(now);
            self.end_reload(Reloaded::TimedOut);
        }
    }

    pub(super) fn poll_successor(&mut self, now: Instant) -> Option<Action> {
        if !self.can_start_successor() {
            return None;
        }
        let (generation, slot) = match self.reload {
            Some(reload) => {
                let has_none =
                    |slot: &Slot| !slot.is_unused() && slot.successor.state.id().is_none();
                (reload.generation, self.slots.iter().position(has_none)?)
            }
            None => {
                let is_due = |slot: &Slot| slot.replace_at().is_some_and(|at| at <= now);
                (self.generation, self.slots.iter().position(is_due)?)
            }
        };
        if self.reload.is_none()
            && let Some(old) = self.slots[slot].state.id()
        {
            self.close_process(old);
        }
        let state = self.start(slot, generation, now);
        self.slots[slot].successor.state = state;
        self.check_all_started(now);
        state.id().map(Action::Start)
    }

    /// Sets the time by which the successors of a reload must be ready, when each slot has one.
    fn check_all_started(&mut self, now: Instant) {
        let Some(Reload { generation, timeout, .. }) = self.reload else { return };
        let is_new =
            |slot: &Slot| slot.successor.state.id().is_some_and(|id| id.generation == generation);
        let all_started = self.used_slots().all(is_new);
        if let Some(reload) = self.reload.as_mut().filter(|_| all_started) {
            reload.until = Some(after(now, timeout));
        }
    }

    /// Sets the end of the wait for stopped workers while they prevent the start of a successor. A factory or a destructor
    /// that blocks is not interrupted, and a process may ignore its stop signal, so they may never exit.
    fn check_blocked(&mut self, now: Instant) {
        let is_stopped = |state: &&State| !matches!(state, State::Busy { .. });
        let stopped = self.leaving.iter().filter(is_stopped).count();
        let is_blocked = stopped > 0 && stopped + self.successors() >= self.used;
        if let Some(reload) = &mut self.reload {
            let until = reload.blocked_until.unwrap_or_else(|| after(now, reload.timeout));
            reload.blocked_until = Some(until).filter(|_| is_blocked && reload.until.is_none());
        }
    }

    /// Returns the number of successors that run or start.
    fn successors(&self) -> usize {
        self.slots.iter().filter(|slot| slot.successor.state.id().is_some()).count()
    }

    /// Returns whether a further worker may run in addition to those of the slots.
    fn can_start_successor(&self) -> bool {
        let bound = match self.reload {
            Some(_) => self.used,
            None => self.config.recycle.at_a_time.min(self.used),
        };
        let is_finishing = |state: &&State| matches!(state, State::Busy { .. });
        let finishing = self.leaving.iter().filter(is_finishing).count();
        let surplus = self.leaving.len() + self.successors();
        let is_in_bounds = surplus - finishing < bound && surplus < bound + self.used;
        self.phase == Phase::Running && is_in_bounds
    }

    /// Returns the end of the reload, or the time at which the next worker may be replaced.
    pub(super) fn renewal_deadline(&self) -> Option<Instant> {
        if let Some(reload) = self.reload {
            return reload.end();
        }
        if !self.can_start_successor() {
            return None;
        }
        self.slots.iter().filter_map(Slot::replace_at).min()
    }

    fn successor(&mut self, id: WorkerId) -> Option<&mut Successor> {
        let slot = self.slots.get_mut(id.slot)?;
        Some(&mut slot.successor).filter(|s| s.state.id() == Some(id))
    }
}
