//! `Checkin`: takes a client's connection back after an exchange.

use std::time::Instant;

/// Takes a connection back when its exchange is complete and another may follow.
pub trait Checkin<C>: Unpin + Send + 'static {
    /// Takes the connection back; it is idle since `now`.
    fn checkin(self, connection: C, now: Instant);
}

/// Closes a connection after its one exchange.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse;

impl<C> Checkin<C> for SingleUse {
    fn checkin(self, _: C, _: Instant) {}
}
