//! [`IdleState`]: an idle connection in a few bytes, without the state machine.

use std::{sync::Arc, time::Instant};

use super::{Conn, Limits, Reading, Role, Writing};
use crate::peer::RateMeter;

/// The state of a [`Conn`] between two exchanges.
///
/// A driver of many connections, most of them idle, keeps one of these for each, and a `Conn` only
/// for each active one.
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
    is_head_due: bool,
    since: Instant,
}

impl IdleState {
    /// Creates the state of a connection that was accepted at `now`.
    pub fn new(now: Instant) -> Self {
        Self { is_head_due: true, since: now }
    }

    /// Creates the state from its parts.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers keep states"))]
    pub(crate) fn with_head_due(since: Instant, is_head_due: bool) -> Self {
        Self { is_head_due, since }
    }

    /// Returns whether the time for the next head runs since the connection was accepted.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers keep states"))]
    pub(crate) fn is_head_due(&self) -> bool {
        self.is_head_due
    }

    /// Returns the time since which the connection has been idle.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl<R: Role + Default> Conn<R> {
    /// Creates a connection that continues from its idle state.
    pub fn from_idle(limits: Arc<Limits>, IdleState { is_head_due, since }: IdleState) -> Self {
        let mut conn = Self::new(limits, since);
        conn.reading = Reading::Idle { is_head_due };
        conn
    }

    /// Makes this the state of another connection, which continues from its idle state. Keeps the allocation for
    /// the lines of a head.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only drivers keep states"))]
    pub(crate) fn reset(&mut self, limits: &Arc<Limits>, idle: IdleState) {
        // Without `..`, so that a new field is not forgotten.
        let Self {
            reading,
            lines,
            writing,
            keep_alive,
            role,
            limits: old,
            since,
            rate_meter,
            body_deadline,
        } = self;
        *reading = Reading::Idle { is_head_due: idle.is_head_due };
        lines.clear();
        (*writing, *keep_alive, *role, *since) = (Writing::Idle, true, R::default(), idle.since);
        (*rate_meter, *body_deadline) = (RateMeter::default(), None);
        if !Arc::ptr_eq(old, limits) {
            old.clone_from(limits);
        }
    }

    /// Returns the idle state, or `None` unless the connection is idle, keeps alive, and has received
    /// nothing of a next message.
    pub fn idle_state(&self) -> Option<IdleState> {
        match self.reading {
            Reading::Idle { is_head_due } if self.writing == Writing::Idle && self.keep_alive => {
                Some(IdleState { is_head_due, since: self.since })
            }
            _ => None,
        }
    }
}
