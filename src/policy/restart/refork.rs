//! `Mould`: the choice of the worker from which the others of its generation are forked again.

use super::{Phase, Supervisor, WorkerId, slot::Slot};

/// The worker of the current generation that becomes the mould: a process that has answered requests, so that the
/// workers that are forked from it share what those have loaded.
///
/// ```text
///          a worker has completed enough requests
///   None ------------------------------------------> Chosen: it is replaced like a recycled worker
///   ^ ^ ^        it exits                             |
///   | | +---------------------------------------------+
///   | |          it exits                             v claim_mould: it has left its slot, and is idle
///   | +------------------------------------------- Preparing ----on_mould_refused---> Refused
///   |                                                 |
///   |            on_mould_end                         v on_mould_ready: the workers that were forked before
///   +----------------------------------------------- Ready              are replaced like recycled ones
///                                                     | on_copy_failed
///                                                     v
///                                                  Refused
/// ```
///
/// A new generation starts with `None`. In every state but `Ready`, workers are forked from the process that has loaded the
/// application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mould {
    None,
    Chosen(WorkerId),
    Preparing(WorkerId),
    Ready {
        id: WorkerId,
        /// Workers with lower numbers were forked before.
        first: u64,
    },
    /// The application has state that must not be copied. It would refuse again.
    Refused,
}

impl Supervisor {
    /// Chooses worker `id`, which has completed a request, if it is the first one with enough of them.
    pub(super) fn choose_mould(&mut self, id: WorkerId) {
        let Some(requests) = self.config.refork_after else { return };
        let is_current = self.mould == Mould::None && id.generation == self.generation;
        if !is_current || self.phase != Phase::Running || self.reload.is_some() {
            return;
        }
        if let Some(slot) = self.slot(id)
            && slot.has_served(requests)
            && !slot.is_nominated()
        // it has too much memory, perhaps, which its copies would have as well
        {
            let is_new = slot.nominate();
            self.mould = Mould::Chosen(id);
            self.has_nominated |= is_new;
        }
    }

    /// Returns whether worker `id`, which has left its slot and has no request, becomes the mould instead of exiting.
    /// [`on_mould_ready`](Self::on_mould_ready), [`on_mould_refused`](Self::on_mould_refused) or
    /// [`on_exit`](Self::on_exit) follows.
    pub(crate) fn claim_mould(&mut self, id: WorkerId) -> bool {
        let is_chosen = self.mould == Mould::Chosen(id) && self.phase == Phase::Running;
        let claims = is_chosen && self.slot(id).is_none();
        if claims {
            self.mould = Mould::Preparing(id);
        }
        claims
    }

    /// Records that the mould forks workers now, and nominates those that were forked before. Returns `false` if it is
    /// not needed any more.
    pub(crate) fn on_mould_ready(&mut self, id: WorkerId) -> bool {
        if self.mould != Mould::Preparing(id) || self.phase != Phase::Running {
            return false;
        }
        self.mould = Mould::Ready { id, first: self.next_number };
        self.reforks += 1;
        let generation = self.generation;
        let slots = self.slots.iter_mut();
        let old = slots.filter(|s| s.state.id().is_some_and(|id| id.generation == generation));
        let is_new = old.fold(false, |is_new, slot| slot.nominate() | is_new);
        self.has_nominated |= is_new;
        true
    }

    /// Records that the application has state that must not be copied.
    pub(crate) fn on_mould_refused(&mut self, id: WorkerId) {
        if self.mould == Mould::Preparing(id) {
            self.mould = Mould::Refused;
        }
    }

    /// Records that a copy of the mould was not ready: its state cannot be copied, although it has not refused. Returns
    /// whether it was the mould until now.
    pub(crate) fn on_copy_failed(&mut self, generation: u64) -> bool {
        let failed = generation == self.generation && matches!(self.mould, Mould::Ready { .. });
        if failed {
            self.mould = Mould::Refused;
        }
        failed
    }

    /// Records that the mould has ended.
    pub(crate) fn on_mould_end(&mut self, id: WorkerId) {
        if matches!(self.mould, Mould::Ready { id: mould, .. } if mould == id) {
            self.mould = Mould::None;
        }
    }

    /// Records that worker `id` has exited before it was the mould.
    pub(super) fn check_mould_exit(&mut self, id: WorkerId) {
        if self.mould == Mould::Chosen(id) || self.mould == Mould::Preparing(id) {
            self.mould = Mould::None;
        }
    }

    /// Nominates worker `id`, which has become ready, if it was forked before the mould was ready.
    pub(super) fn check_outdated(&mut self, id: WorkerId) {
        let Mould::Ready { first, .. } = self.mould else { return };
        if id.generation == self.generation && id.number < first {
            let is_new = self.slot(id).is_some_and(Slot::nominate);
            self.has_nominated |= is_new;
        }
    }

    /// Returns how often a mould has become ready.
    pub(crate) fn reforks(&self) -> u64 {
        self.reforks
    }
}
