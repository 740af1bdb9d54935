//! `Supervisor`: when the workers of a pool start, restart and are abandoned.

mod slot;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time starts at some instant")]
mod tests;

use std::{
    fmt,
    time::{Duration, Instant},
};

use self::slot::{Slot, State};
use super::backoff::Backoff;

/// Duration that stands for "never": an [`Instant`] cannot hold an arbitrary [`Duration`].
const NEVER: Duration = Duration::from_secs(3600 * 24 * 365 * 10);

/// Returns `now + wait`, with `wait` bounded so that the sum cannot overflow.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}

/// Identifies one worker: the slot it fills, and a number that is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WorkerId {
    slot: usize,
    number: u64,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

/// Bounds of a [`Supervisor`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Slots, each filled by one worker.
    pub(crate) workers: usize,
    /// Abandoned workers that have not exited, at most. So at most `workers + max_abandoned` are alive.
    pub(crate) max_abandoned: usize,
    pub(crate) request_timeout: Duration,
    /// How long after the request timeout a worker is abandoned.
    pub(crate) grace: Duration,
    /// Pauses before a slot is filled again, by the number of its failures in a row.
    pub(crate) backoff: Backoff,
    /// How long a worker may take to be ready, if that is bounded.
    pub(crate) start_timeout: Option<Duration>,
    /// When the back-off ends, if it does.
    pub(crate) give_up: Option<GiveUp>,
}

/// When a slot whose workers fail is not filled again for long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GiveUp {
    /// Exits in a row with no completed request in between.
    pub(crate) failures: u32,
    /// How long after the last of them the slot is filled again.
    pub(crate) pause: Duration,
}

/// A command for the executor of the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start this worker. [`Supervisor::on_exit`] must follow at some time, also if it cannot start.
    Start(WorkerId),
    /// Answer the request of this worker with a timeout, and interrupt it if that is possible.
    Abort(WorkerId),
    /// Give this worker up: it did not end its request in time, and another one takes its slot.
    Abandon(WorkerId),
    /// End this worker, which has no request.
    Stop(WorkerId),
}

/// Time that a request may take.
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

/// Decides when the workers of a pool start, restart and are abandoned.
///
/// It has no threads and no clock: it is told events (`on_*`), and is polled for [`Action`]s until
/// there is none, again after each event and at [`deadline`](Self::deadline). Events of an id that
/// has exited are ignored.
///
/// **Start.** All slots are filled at once. If a worker exits before all are ready, the start has
/// failed and nothing is started any more. A worker that is not ready within the start timeout is
/// stopped, then as later.
///
/// **Restart.** A slot whose worker has exited is filled again. The first time after a completed
/// request that is immediate: a panic costs no capacity. Each further time without a completed request
/// in between waits longer, by the back-off: a worker that cannot be built, or that panics over its
/// first request, does not use up the machine.
///
/// **Request timeout.** A request past its deadline or its timeout is aborted. A worker that has not
/// ended it after a grace period, or has panicked and not exited by then, is abandoned and its slot is
/// filled at once. While `max_abandoned` abandoned workers have not exited, no further one is
/// abandoned: it keeps its slot and goes on when its request ends. As soon as an abandoned worker
/// exits, the one that is overdue for longest is abandoned in turn.
///
/// **End.** After [`close`](Self::close) slots are filled as before until the queue is empty
/// ([`on_drained`](Self::on_drained)); from then on nothing is started. [`is_ended`](Self::is_ended)
/// once all workers have exited, abandoned ones included.
///
/// Recycling, a floor of ready workers and generations belong here too: a worker that is to be
/// recycled leaves its slot like one that panicked, when [`on_done`](Self::on_done) tells it to exit.
#[derive(Debug)]
pub(crate) struct Supervisor {
    config: Config,
    phase: Phase,
    has_failed_to_start: bool,
    slots: Vec<Slot>,
    /// Abandoned workers that have not exited.
    abandoned: Vec<WorkerId>,
    /// Workers that were ever abandoned.
    abandoned_total: u64,
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
    /// A supervisor that starts all workers at `now`.
    pub(crate) fn new(config: Config, now: Instant) -> Self {
        let vacant = || Slot { state: State::Vacant { start_at: now }, failures: 0 };
        Self {
            config,
            phase: Phase::Starting,
            has_failed_to_start: false,
            slots: std::iter::repeat_with(vacant).take(config.workers).collect(),
            abandoned: Vec::new(),
            abandoned_total: 0,
            next_number: 0,
        }
    }

    /// Worker `id` has built its application.
    pub(crate) fn on_ready(&mut self, id: WorkerId) {
        let Some(slot) = self.slot(id) else { return };
        slot.state = State::Idle { id };
        let is_ready = |s: &Slot| !matches!(s.state, State::Vacant { .. } | State::Starting { .. });
        if self.phase == Phase::Starting && self.slots.iter().all(is_ready) {
            self.phase = Phase::Running;
        }
    }

    /// Worker `id` begins a request with this deadline.
    pub(crate) fn on_begin(
        &mut self,
        id: WorkerId,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Allowance {
        let last = after(now, self.config.request_timeout);
        let until = deadline.map_or(last, |d| d.min(last));
        let abandon_at = after(last, self.config.grace);
        if let Some(slot) = self.slot(id) {
            slot.state = State::Busy { id, abort_at: Some(until), abandon_at };
        }
        Allowance { until, total: until.saturating_duration_since(now) }
    }

    /// Worker `id` has ended its request; `crashed` if it panicked. Returns whether it may take another
    /// one; otherwise it must exit.
    pub(crate) fn on_done(&mut self, id: WorkerId, crashed: bool) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        if !crashed {
            *slot = Slot { state: State::Idle { id }, failures: 0 };
        } else if let Some(abandon_at) = slot.state.abandon_at() {
            slot.state = State::Exiting { id, abandon_at };
        }
        !crashed
    }

    /// Worker `id` has exited, or could not be started.
    pub(crate) fn on_exit(&mut self, id: WorkerId, now: Instant) {
        self.abandoned.retain(|abandoned| *abandoned != id);
        let Config { backoff, give_up, .. } = self.config;
        let Some(slot) = self.slot(id) else { return };
        let pause = backoff.delay(slot.failures);
        slot.failures = slot.failures.saturating_add(1);
        let pause = give_up.filter(|g| slot.failures >= g.failures).map_or(pause, |g| g.pause);
        slot.state = State::Vacant { start_at: after(now, pause) };
        if self.phase == Phase::Starting {
            self.fail_to_start();
        }
    }

    /// The pool takes no more requests.
    pub(crate) fn close(&mut self) {
        match self.phase {
            Phase::Starting => self.fail_to_start(),
            Phase::Running => self.phase = Phase::Draining,
            Phase::Draining | Phase::Ending => {}
        }
    }

    /// The queue of the closed pool is empty.
    pub(crate) fn on_drained(&mut self) {
        if self.phase == Phase::Draining {
            self.phase = Phase::Ending;
        }
    }

    fn fail_to_start(&mut self) {
        self.phase = Phase::Ending;
        self.has_failed_to_start = true;
    }

    /// The next thing to do at `now`; `None` if there is nothing before the next event or
    /// [`deadline`](Self::deadline).
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Action> {
        self.poll_abort(now)
            .or_else(|| self.poll_abandon(now))
            .or_else(|| self.poll_stop(now))
            .or_else(|| self.poll_start(now))
    }

    fn poll_abort(&mut self, now: Instant) -> Option<Action> {
        self.slots.iter_mut().find_map(|slot| match &mut slot.state {
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
        let overdue = self.slots.iter_mut().filter(|s| s.state.abandon_at().is_some());
        let slot = overdue.min_by_key(|s| s.state.abandon_at())?;
        let id = slot.state.id().filter(|_| slot.state.abandon_at() <= Some(now))?;
        slot.state = State::Vacant { start_at: now };
        self.abandoned.push(id);
        self.abandoned_total += 1;
        Some(Action::Abandon(id))
    }

    fn poll_stop(&mut self, now: Instant) -> Option<Action> {
        let is_ending = self.phase == Phase::Ending;
        self.slots.iter_mut().find_map(|slot| match &mut slot.state {
            State::Starting { id, stop_at, is_stopped: is_stopped @ false }
                if is_ending || stop_at.is_some_and(|at| at <= now) =>
            {
                *is_stopped = true;
                Some(Action::Stop(*id))
            }
            _ => None,
        })
    }

    fn poll_start(&mut self, now: Instant) -> Option<Action> {
        if !self.starts_workers() {
            return None;
        }
        let is_due = |s: &Slot| matches!(s.state, State::Vacant { start_at } if start_at <= now);
        let slot = self.slots.iter().position(is_due)?;
        let id = WorkerId { slot, number: self.next_number };
        self.next_number += 1;
        let stop_at = self.config.start_timeout.map(|timeout| after(now, timeout));
        self.slots[slot].state = State::Starting { id, stop_at, is_stopped: false };
        Some(Action::Start(id))
    }

    /// When [`poll`](Self::poll) has something to do at the latest, if no event comes before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = |slot: &Slot| {
            let abandon_at = slot.state.abandon_at().filter(|_| self.can_abandon());
            let other = match slot.state {
                State::Vacant { start_at } => Some(start_at).filter(|_| self.starts_workers()),
                State::Busy { abort_at, .. } => abort_at,
                State::Starting { stop_at, is_stopped: false, .. } => stop_at,
                State::Starting { .. } | State::Idle { .. } | State::Exiting { .. } => None,
            };
            abandon_at.into_iter().chain(other).min()
        };
        self.slots.iter().filter_map(due).min()
    }

    /// Whether the first start of all workers has succeeded.
    pub(crate) fn startup(&self) -> Startup {
        match self.phase {
            Phase::Starting => Startup::Pending,
            _ if self.has_failed_to_start => Startup::Failed,
            Phase::Running | Phase::Draining | Phase::Ending => Startup::Ready,
        }
    }

    /// Whether all slots are given up: until one of their workers is ready no request is answered.
    pub(crate) fn has_failed(&self) -> bool {
        let Some(GiveUp { failures, .. }) = self.config.give_up else { return false };
        self.ready() == 0 && self.slots.iter().all(|slot| slot.failures >= failures)
    }

    /// Whether all workers have exited and none will be started.
    pub(crate) fn is_ended(&self) -> bool {
        self.phase == Phase::Ending && self.alive() == 0
    }

    /// Workers that have not exited, abandoned ones included.
    pub(crate) fn alive(&self) -> usize {
        self.abandoned.len() + self.slots.iter().filter(|s| s.state.id().is_some()).count()
    }

    /// Workers that are idle or run a request.
    pub(crate) fn ready(&self) -> usize {
        let is_ready = |s: &&Slot| matches!(s.state, State::Idle { .. } | State::Busy { .. });
        self.slots.iter().filter(is_ready).count()
    }

    /// Workers past their request timeout and grace: abandoned ones that have not exited, and those
    /// that may not be abandoned because of the bound.
    pub(crate) fn stuck(&self, now: Instant) -> usize {
        let is_overdue = |s: &&Slot| s.state.abandon_at().is_some_and(|at| at <= now);
        self.abandoned.len() + self.slots.iter().filter(is_overdue).count()
    }

    /// Workers that were ever abandoned.
    pub(crate) fn abandoned_total(&self) -> u64 {
        self.abandoned_total
    }

    fn can_abandon(&self) -> bool {
        self.abandoned.len() < self.config.max_abandoned
    }

    fn starts_workers(&self) -> bool {
        self.phase != Phase::Ending
    }

    /// The slot of `id`, if it has neither exited nor been abandoned.
    fn slot(&mut self, id: WorkerId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot).filter(|s| s.state.id() == Some(id))
    }
}
