//! `Supervisor`: decides when the workers of a pool are started, restarted and abandoned.

mod config;
mod events;
mod processes;
mod refork;
mod renewal;
mod scale;
mod slot;
mod status;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time starts at some instant")]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

pub(crate) use self::{
    config::{Config, GiveUp, Recycle},
    renewal::{Claim, Reloaded},
    scale::Scale,
};
use self::{
    processes::Processes,
    refork::Mould,
    renewal::Reload,
    slot::{Slot, State},
};

/// A duration that means "never", ten years: an [`Instant`] cannot hold an arbitrary [`Duration`].
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// Returns `now + wait`, with `wait` limited to [`NEVER`], so that the sum cannot overflow.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

/// Identifies one worker: the slot it fills, and a number that is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkerId {
    slot: usize,
    number: u64,
    generation: u64,
}

impl WorkerId {
    /// Returns its generation: 0, and one more for each reload.
    pub(crate) fn generation(self) -> u64 {
        self.generation
    }

    /// Creates the id of a worker, with a slot of the same number.
    #[cfg(test)]
    pub(crate) fn of_number(number: u64) -> Self {
        Self { slot: number as usize, number, generation: 0 }
    }

    /// Returns its number, which is never reused in the pool.
    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// A command for the executor of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start this worker. [`Supervisor::on_exit`] must follow, also if it cannot be started.
    Start(WorkerId),
    /// Abort the request of this worker with a timeout, and interrupt it if that is possible.
    Abort(WorkerId),
    /// Abandon this worker: it did not end its request in time, and is replaced in its slot.
    Abandon(WorkerId),
    /// Stop this worker, which has no request.
    Stop(WorkerId),
    /// Stop this worker, which did not become ready in time.
    TimeOut(WorkerId),
}

/// The time that a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) until: Instant,
    /// The same as a duration.
    pub(crate) total: Duration,
}

/// Whether the first start of all workers has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Startup {
    Pending,
    Ready,
    Failed,
}

/// Decides when the workers of a pool are started, restarted and abandoned.
///
/// It has no threads and no clock. Its inputs are events (`on_*`), and its outputs are [`Action`]s: poll it until
/// there are none, after each event and at [`deadline`](Self::deadline). Events of an id that has exited are ignored.
///
/// **Start.** All slots are filled at once. If a worker exits before all are ready, the start has failed and no
/// further worker is started. A worker that is not ready within the start timeout is stopped, also after a restart.
///
/// **Restart.** A slot whose worker has exited is filled again. It is filled at once after a completed request, so
/// that a panic costs no capacity. Each further time without a completed request the delay is longer (back-off), so
/// that a worker that cannot be built, or that panics in its first request, does not use all of the CPU.
///
/// **Request timeout.** A request past its deadline or its timeout is aborted. A worker that has not ended it after
/// the grace period, or has panicked and not exited by then, is abandoned, and its slot is filled at once. While
/// there are `max_abandoned` abandoned workers that have not exited, no further one is abandoned: it keeps its slot
/// and continues when its request ends. As soon as an abandoned worker exits, the one that has been overdue longest
/// is abandoned.
///
/// **End.** After [`close`](Self::close), slots are filled as before until the queue is empty
/// ([`on_drained`](Self::on_drained)). After that, no worker is started. [`is_ended`](Self::is_ended) returns `true`
/// when all workers have exited, including abandoned ones.
///
/// **Recycling.** A worker that has reached a limit of [`Recycle`] is only nominated: it continues while a successor
/// starts in its slot, for at most `at_a_time` workers of the pool. When the successor is ready, the old worker
/// leaves the slot: it finishes its request and exits. So recycling never lowers the number of ready workers.
///
/// **Shared processes.** Several workers may share a process ([`on_joined`](Self::on_joined)). When one of them is
/// abandoned, replaced or exits, no other joins the process, and the other ones are nominated, so that the process
/// can be stopped. Workers that are not needed are stopped only with all others of their process.
///
/// **Reload.** [`reload`](Self::reload) starts a successor of the next generation in every slot. The successors wait
/// until all are ready, and then replace the old generation in all slots. If one exits before that, or the timeout
/// passes after the start of the last one, they are stopped, and the old generation continues. It fails too when workers
/// that were stopped and do not exit have prevented the start of another one for the timeout.
///
/// **Leaving workers.** A worker that has left its slot may take the request timeout to finish its request, or the drain
/// timeout if that is shorter. It counts among
/// those that are replaced at a time only after that, or when there are as many as slots.
///
/// **Refork.** The first worker of a generation that has completed `refork_after` requests is replaced like a recycled one,
/// and becomes the mould instead of exiting. The other workers are then replaced by those that are forked from it. See
/// [`Mould`].
///
/// **Restart of all.** [`restart`](Self::restart) stops the workers first, and starts others when they have exited,
/// for programs that must not run twice.
///
/// **Scale.** Between `workers` and the maximum of [`Scale`], workers are added while requests wait, or while too few
/// workers are idle, and are stopped after they were idle for long. This never lowers the number of ready workers
/// below `workers`.
///
/// So the number of workers is at most three times the maximum, plus `max_abandoned`.
#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    phase: Phase,
    has_failed_to_start: bool,
    /// One for each worker, and those of workers that are not needed any more.
    slots: Vec<Slot>,
    /// Slots that need a worker.
    used: usize,
    /// Queued requests.
    queued: usize,
    /// Whether a worker may be added when another one is needed, as of the last [`poll`](Self::poll).
    can_grow: bool,
    /// The time of the next check for idle workers; `None` while there are none to stop.
    shrink_at: Option<Instant>,
    /// Whether no process can be stopped before a worker is used, becomes ready or exits.
    is_unshrinkable: bool,
    /// Abandoned workers that have not exited.
    abandoned: Vec<WorkerId>,
    /// The total number of abandoned workers.
    abandoned_total: u64,
    /// Workers that have left their slot to a successor, or were not needed, and have not exited.
    leaving: Vec<State>,
    /// The ends of the drain timeouts of workers that were replaced and have not exited.
    drain_ends: HashMap<WorkerId, Instant>,
    /// The total number of recycled workers.
    recycled_total: u64,
    /// Workers that were ready and exited without being stopped.
    unexpected_exits: u64,
    generation: u64,
    last_generation: u64,
    mould: Mould,
    /// How often a mould has become ready.
    reforks: u64,
    /// Whether a worker was nominated since [`take_nominated`](Self::take_nominated).
    has_nominated: bool,
    processes: Processes,
    reload: Option<Reload>,
    reloaded: Option<Reloaded>,
    next_number: u64,
}

/// ```text
/// Starting ---all ready---> Running ---close---> Draining ---on_drained---> Ending
///    \------------------a worker exits, or close------------------------------^
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Draining,
    Ending,
}

impl Supervisor {
    /// Creates a supervisor that starts all workers at `now`.
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Starting,
            has_failed_to_start: false,
            slots: (0..config.workers).map(|_| Slot::vacant(now)).collect(),
            used: config.workers,
            queued: 0,
            can_grow: false,
            shrink_at: None,
            is_unshrinkable: false,
            abandoned: Vec::new(),
            abandoned_total: 0,
            leaving: Vec::new(),
            drain_ends: HashMap::new(),
            recycled_total: 0,
            unexpected_exits: 0,
            generation: 0,
            last_generation: 0,
            mould: Mould::None,
            reforks: 0,
            has_nominated: false,
            processes: Processes::default(),
            reload: None,
            reloaded: None,
            next_number: 0,
        }
    }

    /// Returns the next action at `now`; `None` if there is none before the next event or
    /// [`deadline`](Self::deadline).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        self.poll_reload(now);
        self.poll_growth(now);
        self.poll_shrink(now);
        self.poll_abort(now)
            .or_else(|| self.poll_abandon(now))
            .or_else(|| self.poll_stop(now))
            .or_else(|| self.poll_start(now))
            .or_else(|| self.poll_successor(now))
    }

    fn poll_abort(&mut self, now: Instant) -> Option<Action> {
        self.states_mut().find_map(|state| match state {
            State::Busy { id, abort_at, .. } if abort_at.is_some_and(|at| at <= now) => {
                *abort_at = None;
                Some(Action::Abort(*id))
            }
            _ => None,
        })
    }

    fn poll_abandon(&mut self, now: Instant) -> Option<Action> {
        if !self.can_abandon() {
            return None;
        }
        let overdue = self.states_mut().filter(|state| state.abandon_at().is_some());
        let state = overdue.min_by_key(|state| state.abandon_at())?;
        let id = state.id().filter(|_| state.abandon_at() <= Some(now))?;
        *state = State::Vacant { start_at: now };
        self.leaving.retain(|state| state.id().is_some());
        self.abandoned.push(id);
        self.abandoned_total += 1;
        self.close_process(id);
        Some(Action::Abandon(id))
    }

    fn poll_stop(&mut self, now: Instant) -> Option<Action> {
        let is_ending = self.phase == Phase::Ending;
        let stop = |slot: &mut Slot| {
            slot.states_mut().into_iter().find_map(|state| state.stop(is_ending, now))
        };
        if let Some(id) = self.slots.iter_mut().find_map(stop) {
            return Some(if is_ending { Action::Stop(id) } else { Action::TimeOut(id) });
        }
        let leaving = self.leaving.iter_mut().find_map(|state| {
            // For the log: a late one has ended a reload.
            let stop = if state.is_late(now) { Action::TimeOut } else { Action::Stop };
            state.release(now).map(stop)
        });
        let mut slots = self.slots.iter_mut();
        leaving.or_else(|| slots.find_map(|slot| slot.poll_restart(now)).map(Action::Stop))
    }

    fn poll_start(&mut self, now: Instant) -> Option<Action> {
        if !self.starts_workers() {
            return None;
        }
        let is_due = |s: &Slot| matches!(s.state, State::Vacant { start_at } if start_at <= now);
        let slot = self.slots.iter().position(is_due)?;
        let state = self.start(slot, self.generation, now);
        self.slots[slot].state = state;
        state.id().map(Action::Start)
    }

    /// Creates a new worker for `slot`.
    fn start(&mut self, slot: usize, generation: u64, now: Instant) -> State {
        let id = WorkerId { slot, number: self.next_number, generation };
        self.next_number += 1;
        let stop_at = self.config.start_timeout.map(|timeout| after(now, timeout));
        State::Starting { id, stop_at, is_stopped: false }
    }

    /// Returns the time at which [`poll`](Self::poll) must be called if there is no event before that.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let can_abandon = self.can_abandon();
        let due = |state: &State| {
            let abandon_at = state.abandon_at().filter(|_| can_abandon);
            let other = match *state {
                State::Vacant { start_at } => Some(start_at).filter(|_| self.starts_workers()),
                State::Busy { abort_at, .. } => abort_at,
                State::Starting { stop_at, is_stopped: false, .. } => stop_at,
                State::Unused
                | State::Starting { .. }
                | State::Idle { .. }
                | State::Exiting { .. } => None,
            };
            abandon_at.into_iter().chain(other).min()
        };
        let in_slots = self.slots.iter().map(|slot| &slot.state);
        let successors = self.slots.iter().map(|slot| &slot.successor.state);
        let successors = successors.filter(|state| state.id().is_some());
        let states = in_slots.chain(successors).chain(&self.leaving);
        let states = states.filter_map(due);
        states.chain(self.renewal_deadline()).chain(self.shrink_at).min()
    }

    /// Returns the states of workers that run requests or did, and may be aborted and abandoned.
    fn states_mut(&mut self) -> impl Iterator<Item = &mut State> {
        self.slots.iter_mut().map(|slot| &mut slot.state).chain(&mut self.leaving)
    }

    /// Slots that need a worker.
    fn used_slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_unused())
    }

    fn can_abandon(&self) -> bool {
        self.abandoned.len() < self.config.max_abandoned
    }

    fn starts_workers(&self) -> bool {
        self.phase != Phase::Ending
    }

    /// Returns the slot of `id`, if it has neither exited nor been abandoned.
    fn slot(&mut self, id: WorkerId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot).filter(|s| s.state.id() == Some(id))
    }
}
