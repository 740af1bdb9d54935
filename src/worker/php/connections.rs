//! `Connections`: the connections to one instance of PHP, of which each occupies a process.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, Id},
    sync::OwnedSemaphorePermit,
};

use super::generation::InUse;
use crate::{
    conn::{Checkin, fcgi},
    net::{Stream, clock},
};

/// Time after which an idle connection is closed: 1 s. php-fpm counts it as a part of the next request
/// (`request_terminate_timeout`), and kills a process whose connection is idle for longer than that.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

type Connection = fcgi::Connection<Stream>;

/// The connections to one instance of PHP.
///
/// A process of PHP serves one connection until its end, so an idle one is an idle process, which needs no `accept` for
/// the next request. But a script may go on after its response (`fastcgi_finish_request`), so a connection is used
/// again only when its process waits for a request, see [`Idle::activity`].
///
/// There are never more connections than processes, except while a process still runs a script whose request was given
/// up: then a new connection waits in the kernel's accept queue, although other processes may be idle. Such a
/// connection is [starving](Self::starve) after a time, and until it is served no connection is kept.
#[derive(Debug)]
pub(super) struct Connections {
    /// The number of processes.
    processes: usize,
    /// Whether connections are kept at all.
    keeps: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest last.
    idle: VecDeque<Idle>,
    /// Leases, with or without a connection.
    busy: usize,
    starving: usize,
    is_retired: bool,
    /// Runtimes with a [`Reaper`].
    reaped: Vec<Id>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    runtime: Id,
    since: Instant,
}

/// What the process of an idle connection does.
#[derive(Debug, PartialEq, Eq)]
enum Activity {
    /// It waits for the next request.
    Waiting,
    /// Its script goes on after the response.
    Running,
    /// Its script wrote after the end of the response, which the next request must not receive, or it has ended.
    Unusable,
}

impl Idle {
    /// Asks the kernel, which knows more than the runtime.
    ///
    /// PHP reads the last record of a request, which is empty, only when it waits for the next one: until the script
    /// has ended that record is in the socket. What a script has written before is then in the other queue.
    fn activity(&self) -> Activity {
        if !self.connection.is_all_read() {
            Activity::Running
        } else if self.connection.has_input() {
            Activity::Unusable
        } else {
            Activity::Waiting
        }
    }
}

impl State {
    /// Takes an idle connection, which is to be closed. That of a process that waits is preferred, since this process
    /// then accepts another connection.
    fn evict(&mut self) -> Option<Idle> {
        let waits = self.idle.iter().position(|idle| idle.activity() == Activity::Waiting);
        self.idle.remove(waits.unwrap_or(0))
    }

    /// Takes the connection of this runtime that was used last and whose process waits, and into `closed` those that
    /// are unusable.
    fn take_waiting(&mut self, runtime: Id, closed: &mut Vec<Idle>) -> Option<Idle> {
        for at in (0..self.idle.len()).rev() {
            let idle = &self.idle[at];
            if idle.runtime != runtime {
                continue;
            }
            // php-fpm may end the process of an older one in the middle of the request.
            let is_old = clock::now().saturating_duration_since(idle.since) >= IDLE_TIMEOUT;
            let activity = if is_old { Activity::Unusable } else { idle.activity() };
            match activity {
                Activity::Waiting => return self.idle.remove(at),
                Activity::Running => {}
                Activity::Unusable => closed.extend(self.idle.remove(at)),
            }
        }
        None
    }
}

impl Connections {
    /// The connections to an instance with this number of processes. Without `keeps` none of them is used twice.
    pub(super) fn new(processes: usize, keeps: bool) -> Arc<Self> {
        Arc::new(Self { processes, keeps, state: Mutex::default() })
    }

    /// Begins a request, with the permit of a process. Returns the idle connection of this runtime that was used
    /// last and whose process waits for a request. Without one the caller connects.
    pub(super) fn checkout(
        self: &Arc<Self>,
        child: Arc<OwnedSemaphorePermit>,
        in_use: InUse,
    ) -> (Lease, Option<Connection>) {
        let runtime = Handle::current().id();
        let mut state = self.state();
        state.busy += 1;
        let mut closed = Vec::new();
        let idle = state.take_waiting(runtime, &mut closed);
        // Connections that cannot be used, such as those of other runtimes, must not occupy all processes.
        if state.busy + state.idle.len() > self.processes {
            closed.extend(state.evict());
        }
        drop(state);
        drop(closed);
        let connections = self.clone();
        let lease = Lease { connections, runtime, is_busy: true, _in_use: in_use, _child: child };
        (lease, idle.map(|idle| idle.connection))
    }

    /// Records that a request on a new connection waits for a process, until the guard is dropped.
    pub(super) fn starve(self: &Arc<Self>) -> Starving {
        let mut state = self.state();
        state.starving += 1;
        let evicted = state.evict();
        drop(state);
        drop(evicted); // its process accepts the new connection
        Starving(self.clone())
    }

    /// Closes the idle connections, and each other one after its request: PHP is stopped next.
    pub(super) fn retire(&self) {
        let mut state = self.state();
        state.is_retired = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// Closes the connections of this runtime that are idle since `before`. Returns the time since which the oldest
    /// remaining one is idle. Without one, the runtime has no reaper from now on.
    fn expire(&self, runtime: Id, before: Instant) -> Option<Instant> {
        let mut state = self.state();
        let (expired, idle) = std::mem::take(&mut state.idle)
            .into_iter()
            .partition::<VecDeque<_>, _>(|idle| idle.runtime == runtime && idle.since <= before);
        state.idle = idle;
        let oldest = state.idle.iter().find(|idle| idle.runtime == runtime);
        let oldest = oldest.map(|idle| idle.since);
        if oldest.is_none() {
            state.reaped.retain(|id| *id != runtime);
        }
        drop(state);
        drop(expired);
        oldest
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that uses a connection, or opens one. When its response is complete, the connection becomes idle.
#[derive(Debug)]
pub(super) struct Lease {
    connections: Arc<Connections>,
    runtime: Id,
    /// Whether it is counted as busy.
    is_busy: bool,
    _in_use: InUse,
    _child: Arc<OwnedSemaphorePermit>,
}

impl Checkin<Connection> for Lease {
    fn checkin(mut self, connection: Connection, now: Instant) {
        // The body may have been read in another runtime.
        let here = Handle::try_current().ok().filter(|here| here.id() == self.runtime);
        let Some(here) = here.filter(|_| self.connections.keeps) else {
            drop(connection); // before the permit of its process
            return;
        };
        let mut state = self.connections.state();
        state.busy -= 1;
        self.is_busy = false;
        let fits = state.busy + state.idle.len() < self.connections.processes;
        if !fits || state.is_retired || state.starving > 0 {
            drop(state);
            drop(connection);
            return;
        }
        state.idle.push_back(Idle { connection, runtime: self.runtime, since: now });
        if !state.reaped.contains(&self.runtime) {
            state.reaped.push(self.runtime);
            drop(state);
            here.spawn(Reaper::new(&self.connections, self.runtime).run());
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_busy {
            self.connections.state().busy -= 1;
        }
    }
}

/// A request on a new connection that no process may have accepted.
#[derive(Debug)]
pub(super) struct Starving(Arc<Connections>);

impl Drop for Starving {
    fn drop(&mut self) {
        self.0.state().starving -= 1;
    }
}

/// Closes the idle connections of one runtime at their timeout, and the rest when the runtime ends.
struct Reaper {
    connections: Weak<Connections>,
    runtime: Id,
    is_owner: bool,
}

impl Reaper {
    fn new(connections: &Arc<Connections>, runtime: Id) -> Self {
        Self { connections: Arc::downgrade(connections), runtime, is_owner: true }
    }

    async fn run(mut self) {
        while let Some(connections) = self.connections.upgrade() {
            let now = clock::now();
            let before = now.checked_sub(IDLE_TIMEOUT);
            let oldest = match before {
                Some(before) => connections.expire(self.runtime, before),
                None => Some(now), // the clock has just started
            };
            let Some(oldest) = oldest else {
                self.is_owner = false; // the next idle connection spawns another reaper
                return;
            };
            drop(connections);
            tokio::time::sleep_until((oldest + IDLE_TIMEOUT).into()).await;
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if self.is_owner
            && let Some(connections) = self.connections.upgrade()
        {
            connections.expire(self.runtime, clock::now());
        }
    }
}

#[cfg(test)]
mod tests;
