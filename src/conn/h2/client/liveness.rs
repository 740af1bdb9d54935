//! `Liveness`: when the server of a shared connection was last heard from, and PINGs that ask it.

use std::{
    future::poll_fn,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use h2::{Ping, PingPong};
use tokio::sync::Mutex;

use crate::net::clock;

/// The last evidence that the server of a connection is there.
pub(super) struct Liveness {
    opened: Instant,
    /// Milliseconds from `opened` to the last head of a response, or answer to a PING.
    heard: AtomicU64,
    /// Set when the server has answered the first PING, which is that of the driver.
    pings: OnceLock<Mutex<PingPong>>,
}

impl Liveness {
    pub(super) fn new() -> Self {
        Self { opened: clock::now(), heard: AtomicU64::new(0), pings: OnceLock::new() }
    }

    /// Records that the server has answered.
    pub(super) fn record(&self, now: Instant) {
        let since = now.saturating_duration_since(self.opened).as_millis();
        self.heard.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    /// Allows PINGs, after the first one has been answered.
    pub(super) fn enable_pings(&self, pings: PingPong) {
        let _ = self.pings.set(Mutex::new(pings)); // it is called once
    }

    /// Returns the time since the server was last heard from.
    pub(super) fn quiet_for(&self, now: Instant) -> Duration {
        let opened = now.saturating_duration_since(self.opened);
        opened.saturating_sub(Duration::from_millis(self.heard.load(Relaxed)))
    }

    /// Sends a PING, and waits for its answer. The caller applies the timeout. Returns `false` if the connection has failed,
    /// or the server does not answer PINGs.
    pub(super) async fn confirm(&self) -> bool {
        let asked = clock::now();
        let Some(pings) = self.pings.get() else { return false };
        let mut pings = pings.lock().await;
        if self.quiet_for(asked).is_zero() {
            return true; // another request has asked meanwhile
        }
        // `h2` has one PING at a time. An earlier caller may not have waited for the answer to its own.
        while pings.send_ping(Ping::opaque()).is_err() {
            if poll_fn(|cx| pings.poll_pong(cx)).await.is_err() {
                return false;
            }
        }
        let is_answered = poll_fn(|cx| pings.poll_pong(cx)).await.is_ok();
        if is_answered {
            self.record(clock::now());
        }
        is_answered
    }
}
