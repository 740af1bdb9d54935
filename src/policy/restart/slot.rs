//! `Slot`: a place for one worker, and what that worker does.

use std::time::{Duration, Instant};

use super::{NEVER, Recycle, WorkerId, after};

/// A place for one worker at a time, and the one that is to follow.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Exits in a row with no completed request in between.
    pub(super) failures: u32,
    /// Requests that the worker has completed.
    served: u64,
    /// When the worker became ready.
    ready_at: Option<Instant>,
    /// Whether the worker is to be ended, and started again.
    is_restarting: bool,
    /// When the worker is too old, if there is such a time.
    old_at: Option<Instant>,
    /// Whether the worker has reached another limit.
    is_nominated: bool,
    /// When the worker was ready or began a request, or the slot was to be filled.
    pub(super) used_at: Instant,
    pub(super) successor: Successor,
}

/// The worker that is to follow in a slot.
#[derive(Debug)]
pub(super) struct Successor {
    /// Vacant, starting, or idle while it waits for others of its generation.
    pub(super) state: State,
    /// Successors in a row that have exited before they were ready.
    pub(super) failures: u32,
}

impl Slot {
    /// A slot that is filled at `now`.
    pub(super) fn vacant(now: Instant) -> Self {
        Self {
            state: State::Vacant { start_at: now },
            failures: 0,
            served: 0,
            ready_at: None,
            is_restarting: false,
            old_at: None,
            is_nominated: false,
            used_at: now,
            successor: Successor { state: State::Vacant { start_at: now }, failures: 0 },
        }
    }

    /// A slot that needs no worker.
    pub(super) fn unused(now: Instant) -> Self {
        Self { state: State::Unused, ..Self::vacant(now) }
    }

    pub(super) fn is_unused(&self) -> bool {
        matches!(self.state, State::Unused)
    }

    /// Worker `id` is ready and has the slot.
    pub(super) fn install(&mut self, id: WorkerId, now: Instant, old_at: Option<Instant>) {
        self.state = State::Idle { id };
        self.used_at = now;
        self.served = 0;
        self.ready_at = Some(now);
        self.old_at = old_at;
        self.is_nominated = false;
    }

    /// Has the worker ended and started again, or the next one started at once.
    pub(super) fn restart(&mut self, now: Instant) {
        self.failures = 0;
        match &mut self.state {
            State::Vacant { start_at } => *start_at = now,
            _ => self.is_restarting = true,
        }
    }

    /// The worker that is to be ended now because of [`restart`](Self::restart).
    pub(super) fn poll_restart(&mut self, now: Instant) -> Option<WorkerId> {
        if !self.is_restarting {
            return None;
        }
        let id = self.state.release(now)?;
        self.is_restarting = false;
        Some(id)
    }

    /// Forgets earlier failures if the worker, which has exited, was ready for `stable_after`.
    pub(super) fn forget_failures(&mut self, now: Instant, stable_after: Option<Duration>) {
        let ready_at = self.ready_at.take().zip(stable_after);
        if ready_at.is_some_and(|(at, after)| now.saturating_duration_since(at) >= after) {
            self.failures = 0;
        }
    }

    /// Worker `id` has completed a request.
    pub(super) fn complete(&mut self, id: WorkerId) {
        self.state = State::Idle { id };
        self.failures = 0;
        self.served += 1;
    }

    /// Whether the worker is nominated for the first time by its requests.
    pub(super) fn is_served_out(&self, id: WorkerId, recycle: &Recycle) -> bool {
        !self.is_nominated && recycle.nominates(id, self.served)
    }

    /// Returns whether the worker was not nominated before.
    pub(super) fn nominate(&mut self) -> bool {
        !std::mem::replace(&mut self.is_nominated, true)
    }

    /// When the worker may be replaced; it is ready and was nominated, or will be.
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

/// A slot that is not needed is `Unused`, until it is `Vacant`.
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
    /// No worker, and none is needed.
    Unused,
    /// No worker. The next one starts at `start_at`.
    Vacant {
        start_at: Instant,
    },
    /// Builds its application, and is stopped at `stop_at` if it has not by then.
    Starting {
        id: WorkerId,
        stop_at: Option<Instant>,
        is_stopped: bool,
    },
    Idle {
        id: WorkerId,
    },
    /// Runs a request. `abort_at` is `None` once that was decided.
    Busy {
        id: WorkerId,
        abort_at: Option<Instant>,
        abandon_at: Instant,
    },
    /// Has panicked and discards its application.
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

    /// Whether it takes requests.
    pub(super) fn is_ready(self) -> bool {
        matches!(self, Self::Idle { .. } | Self::Busy { .. })
    }

    /// Marks a worker as stopped that has no request, if it `must` or its time to start is over.
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

    /// Marks a worker as stopped that has no slot, unless it runs a request.
    pub(super) fn release(&mut self, now: Instant) -> Option<WorkerId> {
        if let Self::Idle { id } = *self {
            *self = Self::Exiting { id, abandon_at: after(now, NEVER) };
            return Some(id);
        }
        self.stop(true, now)
    }
}
