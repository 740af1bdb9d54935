//! An idle connection in a few bytes: its state without the state machine.

use std::{sync::Arc, time::Instant};

use super::{Conn, Limits, Reading, Role, Writing};
use crate::peer::Pace;

/// What must be kept of a [`Conn`] between two exchanges to go on later.
///
/// A driver of many connections, most of them idle, keeps one of these for each and a `Conn` only
/// for those that are not.
///
/// ```
/// use std::{sync::Arc, time::Instant};
/// use vestibule::proto::h1::{Conn, Limits, Rest, Server};
///
/// let limits = Arc::new(Limits::default());
/// let mut conn = Conn::<Server>::resting(limits.clone(), Rest::new(Instant::now()));
/// let rest = conn.rest().unwrap(); // nothing has come yet
/// conn.wake(&limits, rest);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    fresh: bool,
    since: Instant,
}

impl Rest {
    /// That of a connection at its beginning.
    pub fn new(now: Instant) -> Self {
        Self { fresh: true, since: now }
    }

    /// Since when it is idle.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl<R: Role + Default> Conn<R> {
    /// A connection that goes on.
    pub fn resting(limits: Arc<Limits>, Rest { fresh, since }: Rest) -> Self {
        let mut conn = Self::new(limits, since);
        conn.reading = Reading::Idle { fresh };
        conn
    }

    /// What must be kept, if nothing has come or gone of a next exchange and one may follow.
    pub fn rest(&self) -> Option<Rest> {
        match self.reading {
            Reading::Idle { fresh } if self.writing == Writing::Idle && self.keep_alive => {
                Some(Rest { fresh, since: self.since })
            }
            _ => None,
        }
    }

    /// Becomes the connection that rested. It need not have been this one.
    pub fn wake(&mut self, limits: &Arc<Limits>, Rest { fresh, since }: Rest) {
        self.reading = Reading::Idle { fresh };
        self.writing = Writing::Idle;
        self.keep_alive = true;
        self.role = R::default();
        self.since = since;
        (self.pace, self.ends) = (Pace::default(), None);
        if !Arc::ptr_eq(&self.limits, limits) {
            self.limits = limits.clone();
        }
    }
}
