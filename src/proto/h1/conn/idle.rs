//! `IdleState`: an idle connection in a few bytes, without the state machine.

use std::{sync::Arc, time::Instant};

use super::{Conn, Limits, Reading, Role, Writing};

/// What must be kept of a [`Conn`] between two exchanges to go on later.
///
/// A driver of many connections, most of them idle, keeps one of these for each and a `Conn` only
/// for those that are active.
///
/// ```
/// use std::{sync::Arc, time::Instant};
/// use vestibule::proto::h1::{Conn, IdleState, Limits, Server};
///
/// let limits = Arc::new(Limits::default());
/// let conn = Conn::<Server>::from_idle(limits.clone(), IdleState::new(Instant::now()));
/// let idle = conn.idle_state().unwrap(); // nothing has come yet
/// let conn = Conn::<Server>::from_idle(limits, idle);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct IdleState {
    is_first: bool,
    since: Instant,
}

impl IdleState {
    /// The state of a connection that was accepted at `now`.
    pub fn new(now: Instant) -> Self {
        Self { is_first: true, since: now }
    }

    /// The time since which the connection is idle.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl<R: Role + Default> Conn<R> {
    /// A connection that goes on from its idle state.
    pub fn from_idle(limits: Arc<Limits>, IdleState { is_first, since }: IdleState) -> Self {
        let mut conn = Self::new(limits, since);
        conn.reading = Reading::Idle { is_first };
        conn
    }

    /// The idle state, if nothing has come or gone of a next exchange and one may follow.
    pub fn idle_state(&self) -> Option<IdleState> {
        match self.reading {
            Reading::Idle { is_first } if self.writing == Writing::Idle && self.keep_alive => {
                Some(IdleState { is_first, since: self.since })
            }
            _ => None,
        }
    }
}
