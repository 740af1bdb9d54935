//! `Slot`: the slot of a worker, and the worker's state.

use std::time::{Duration, Instant};

use super::{NEVER, Recycle, WorkerId, after};

/// A slot for one worker and its successor.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Consecutive exits without a completed request.
    pub(super) failures: u32,
    /// Completed requests of the worker.
    served: u64,
    /// The time at which the worker became ready.
    ready_at: Option<Instant>,
    /// Whether the worker will be stopped and started again.
    pub(super) is_restarting: bool,
    /// The time at which the worker exceeds the age limit, if there is one.
    old_at: Option<Instant>,
    /// Whether the worker has reached another limit.
    is_nominated: bool,
    /// Whether the worker takes no requests, since its process does not answer.
    pub(super) is_hung: bool,
    /// The time at which the worker last became ready or began a request, or the slot became vacant.
    pub(super) used_at: Instant,
    pub(super) successor: Successor,
}

/// The successor of the worker in a slot.
#[derive(Debug)]
pub(super) struct Successor {
    /// Vacant, starting, or idle while it waits for others of its generation.
    pub(super) state: State,
    /// Consecutive successors that exited before they were ready.
    pub(super) failures: u32,
}

impl Slot {
    /// Creates a slot that is filled at `now`.
    pub(super) fn vacant(now: Instant) -> Self {
        Self {
            state: State::Vacant { start_at: now },
            failures: 0,
            served: 0,
            ready_at: None,
            is_restarting: false,
            old_at: None,
            is_nominated: false,
            is_hung: false,
            used_at: now,
            successor: Successor { state: State::Vacant { start_at: now }, failures: 0 },
        }
    }

    /// Creates a slot that needs no worker.
    pub(super) fn unused(now: Instant) -> Self {
        Self { state: State::Unused, ..Self::vacant(now) }
    }

    pub(super) fn is_unused(&self) -> bool {
        matches!(self.state, State::Unused)
    }

    /// Puts worker `id`, which is ready, into the slot.
    pub(super) fn install(&mut self, id: WorkerId, now: Instant, old_at: Option<Instant>) {
        self.state = State::Idle { id };
        self.used_at = now;
        self.served = 0;
        self.ready_at = Some(now);
        self.old_at = old_at;
        self.is_nominated = false;
        self.is_hung = false;
    }

    /// Makes the worker stop and start again, or the next one start at once.
    pub(super) fn restart(&mut self, now: Instant) {
        self.failures = 0;
        match &mut self.state {
            State::Vacant { start_at } => *start_at = now,
            _ => self.is_restarting = true,
        }
    }

    /// Returns the worker that must be stopped now because of [`restart`](Self::restart).
    pub(super) fn poll_restart(&mut self, now: Instant) -> Option<WorkerId> {
        if !self.is_restarting {
            return None;
        }
        let id = self.state.release(now)?;
        self.is_restarting = false;
        Some(id)
    }

    /// Resets the failures if the worker, which has exited, was ready for `stable_after`.
    pub(super) fn forget_failures(&mut self, now: Instant, stable_after: Option<Duration>) {
        let ready_at = self.ready_at.take().zip(stable_after);
        if ready_at.is_some_and(|(at, after)| now.saturating_duration_since(at) >= after) {
            self.failures = 0;
        }
    }

    /// Records a completed request of worker `id`.
    pub(super) fn complete(&mut self, id: WorkerId) {
        self.state = State::Idle { id };
        self.failures = 0;
        self.served += 1;
    }

    /// Returns whether the number of its requests nominates the worker for the first time.
    pub(super) fn is_served_out(&self, id: WorkerId, recycle: &Recycle) -> bool {
        !self.is_nominated && recycle.nominates(id, self.served)
    }

    /// Returns whether the worker has completed this number of requests.
    pub(super) fn has_served(&self, requests: u64) -> bool {
        self.served >= requests
    }

    /// Returns whether the worker is to be replaced.
    pub(super) fn is_nominated(&self) -> bool {
        self.is_nominated
    }

    /// Nominates the worker. Returns whether it was not nominated before.
    pub(super) fn nominate(&mut self) -> bool {
        !std::mem::replace(&mut self.is_nominated, true)
    }

    /// Returns when the worker may be replaced, if it is ready and was nominated or has an age limit.
    pub(super) fn replace_at(&self) -> Option<Instant> {
        let State::Vacant { start_at } = self.successor.state else { return None };
        if !self.state.is_ready() {
            return None;
        }
        let nominated_at = if self.is_nominated { Some(start_at) } else { self.old_at };
        nominated_at.map(|at| at.max(start_at))
    }

    pub(super) fn states(&self) -> [State; 2] {
        [self.state, self.successor.state]
    }

    pub(super) fn states_mut(&mut self) -> [&mut State; 2] {
        [&mut self.state, &mut self.successor.state]
    }
}

/// The state of a slot. One that is not needed is `Unused` until it becomes `Vacant`.
///
/// ```text
///            Start             on_ready         on_begin
///   Vacant --------> Starting ----------> Idle ----------> Busy
///   ^ ^ ^ ^             |                 | ^               | |
///   | | | |   on_exit   |                 | |    on_done    | | on_done, crashed
///   | | | +-------------+     on_exit     | +---------------+ v
///   | | +---------------------------------+               Exiting
///   | |              on_exit, or Abandon after the grace     |
///   | +------------------------------------------------------+
///   |          on_exit, or Abandon after the grace  (from Busy)
///   +--------------------------------------------------------
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// There is no worker, and none is needed.
    Unused,
    /// There is no worker. The next one starts at `start_at`.
    Vacant {
        start_at: Instant,
    },
    /// The worker builds its application, and is stopped at `stop_at` if it is not ready by then.
    Starting {
        id: WorkerId,
        stop_at: Option<Instant>,
        is_stopped: bool,
    },
    Idle {
        id: WorkerId,
    },
    /// The worker runs a request. `abort_at` is `None` after the abort.
    Busy {
        id: WorkerId,
        abort_at: Option<Instant>,
        abandon_at: Instant,
    },
    /// The worker has panicked and discards its application.
    Exiting {
        id: WorkerId,
        abandon_at: Instant,
    },
}

impl State {
    pub(super) fn id(self) -> Option<WorkerId> {
        match self {
            Self::Unused | Self::Vacant { .. } => None,
            Self::Starting { id, .. }
            | Self::Idle { id }
            | Self::Busy { id, .. }
            | Self::Exiting { id, .. } => Some(id),
        }
    }

    pub(super) fn abandon_at(self) -> Option<Instant> {
        match self {
            Self::Busy { abandon_at, .. } | Self::Exiting { abandon_at, .. } => Some(abandon_at),
            Self::Unused | Self::Vacant { .. } | Self::Starting { .. } | Self::Idle { .. } => None,
        }
    }

    /// Makes a worker end its request by `until`.
    pub(super) fn limit(&mut self, until: Instant) {
        if let Self::Busy { abort_at, abandon_at, .. } = self {
            *abort_at = abort_at.map(|at| at.min(until));
            *abandon_at = until.min(*abandon_at);
        }
    }

    /// Returns whether the worker takes requests.
    pub(super) fn is_ready(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Busy { .. })
    }

    /// Returns whether the worker is not ready although its start timeout has passed.
    pub(super) fn is_late(self, now: Instant) -> bool {
        matches!(self, Self::Starting { stop_at: Some(at), .. } if at <= now)
    }

    /// Marks a starting worker as stopped if it `must` be or its start timeout has passed. Returns its id if so.
    pub(super) fn stop(&mut self, must: bool, now: Instant) -> Option<WorkerId> {
        match self {
            Self::Starting { id, stop_at, is_stopped: is_stopped @ false }
                if must || stop_at.is_some_and(|at| at <= now) =>
            {
                *is_stopped = true;
                Some(*id)
            }
            _ => None,
        }
    }

    /// Marks a worker without a slot as stopped, unless it runs a request. Returns its id if so.
    pub(super) fn release(&mut self, now: Instant) -> Option<WorkerId> {
        if let Self::Idle { id } = *self {
            *self = Self::Exiting { id, abandon_at: after(now, NEVER) };
            return Some(id);
        }
        self.stop(true, now)
    }
}
