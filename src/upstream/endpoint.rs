//! One server: its address, its idle connections, and whether it could be reached of late.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::pool::Pool;
use crate::net::Address;

/// How long a server that could not be reached is left out, if there are others: long enough to
/// spare the others' requests the attempt, short enough to come back with the server.
const LEFT_OUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) pool: Pool,
    born: Instant,
    /// Milliseconds since `born` until which it is left out.
    out_until: AtomicU64,
}

impl Endpoint {
    pub(super) fn new(address: Address) -> Self {
        let born = crate::net::clock::now();
        Self { address, pool: Pool::default(), born, out_until: AtomicU64::new(0) }
    }

    /// May a request be sent here now?
    pub(super) fn is_available(&self, now: Instant) -> bool {
        // Relaxed: a late reader sends one more request, which then goes elsewhere.
        self.out_until.load(Ordering::Relaxed) <= self.age(now)
    }

    /// It could not be reached.
    pub(super) fn leave_out(&self, now: Instant) {
        self.out_until.store(self.age(now + LEFT_OUT), Ordering::Relaxed);
    }

    fn age(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }
}
