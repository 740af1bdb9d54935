//! `Checkin`: receives a client's connection after an exchange.

use std::time::Instant;

/// Receives a connection when its exchange is complete and another may follow.
pub trait Checkin<C>: Unpin + Send + 'static {
    /// Receives the connection, which is idle since `now`.
    fn checkin(self, connection: C, now: Instant);
}

/// A [`Checkin`] that closes the connection after one exchange.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse;

impl<C> Checkin<C> for SingleUse {
    fn checkin(self, _: C, _: Instant) {}
}
