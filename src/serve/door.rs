//! The door: which connections are let in, and when.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::sync::Semaphore;

use super::tally::Tally;
use crate::{
    net::{Accepted, Acceptor, Drain, Gate},
    peer::Peer,
};

/// Connections of each loop that are woken at first to see whether they are idle and can end.
const WAKE: usize = 64;

/// Idle connections that are asked to end at a time, at most.
const SHED_BATCH: usize = 64;

/// How long the loop waits for a place before it wakes more connections, the first time and at most:
/// 8,192 of them have been woken after 70 ms if none could end.
const SHED_PAUSE: Duration = Duration::from_millis(10);
const MAX_SHED_PAUSE: Duration = Duration::from_millis(160);

/// What all accept loops of a server share.
pub(super) struct Door {
    pub(super) gate: Gate,
    /// One for each connection.
    permits: Arc<Semaphore>,
    tally: Option<Arc<Tally>>,
    /// The register of each loop's connections.
    drains: Vec<Drain>,
}

/// A connection that was let in, with one of the permits.
pub(super) struct Entered {
    pub(super) accepted: Accepted,
    pub(super) counted: Option<Box<Counted>>,
}

/// How one accept loop makes room while the server is full.
///
/// It is not known how many clients wait in the kernel's queue. So the loop asks for one place, and for
/// twice as many each time that yet another client waits.
pub(super) struct Shedding {
    batch: usize,
}

impl Default for Shedding {
    fn default() -> Self {
        Self { batch: 1 }
    }
}

/// A connection's place in the tally.
pub(super) struct Counted {
    tally: Arc<Tally>,
    peer: Peer,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.left(&self.peer);
    }
}

impl Door {
    pub(super) fn new(loops: usize, most: usize, per_client: Option<usize>, gate: Gate) -> Self {
        let permits = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        let first = Drain::with_permits(permits.clone());
        let drains = std::iter::repeat_with(|| first.sibling()).take(loops).collect();
        Self { gate, permits, tally: per_client.map(Tally::new), drains }
    }

    /// The register of loop `n`; its watches give the permits back.
    pub(super) fn drain(&self, n: usize) -> &Drain {
        &self.drains[n]
    }

    /// The next connection.
    pub(super) async fn next(&self, acceptor: &mut Acceptor, shedding: &mut Shedding) -> Entered {
        // Accepted first, then allowed: a thread that waits for a connection must not hold a
        // place that another one's client waits for.
        let (accepted, counted) = loop {
            self.gate.opened().await;
            let accepted = self.accept(acceptor, shedding).await;
            match self.count(&accepted.peer) {
                Ok(counted) => break (accepted, counted),
                Err(TooMany) => {
                    tracing::debug!(peer = %accepted.peer, "too many connections of this client");
                }
            }
        };
        self.permit(shedding).await;
        Entered { accepted, counted }
    }

    fn count(&self, peer: &Peer) -> Result<Option<Box<Counted>>, TooMany> {
        let Some(tally) = &self.tally else { return Ok(None) };
        if !tally.admits(peer) {
            return Err(TooMany);
        }
        Ok(Some(Box::new(Counted { tally: tally.clone(), peer: peer.clone() })))
    }

    async fn accept(&self, acceptor: &mut Acceptor, shedding: &mut Shedding) -> Accepted {
        let mut accept = pin!(acceptor.accept());
        if let Poll::Ready(accepted) = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await {
            return accepted;
        }
        if shedding.batch > 1 {
            // All that waited are let in.
            *shedding = Shedding::default();
            self.request_shed(0);
        }
        accept.await
    }

    /// Takes a permit and forgets it: the connection's watch gives it back. While there is none,
    /// idle connections are asked for theirs.
    async fn permit(&self, shedding: &mut Shedding) {
        if let Ok(permit) = self.permits.try_acquire() {
            return permit.forget();
        }
        let mut acquire = pin!(self.permits.acquire());
        let (mut wake, mut pause) = (WAKE, SHED_PAUSE);
        let permit = loop {
            self.request_shed(shedding.batch);
            self.drains.iter().for_each(|drain| drain.wake_next(wake));
            match tokio::time::timeout(pause, &mut acquire).await {
                Ok(permit) => break permit,
                Err(_) => {
                    wake = wake.saturating_mul(4);
                    pause = (2 * pause).min(MAX_SHED_PAUSE);
                }
            }
        };
        permit.expect("the semaphore is never closed").forget();
        shedding.batch = (2 * shedding.batch).min(SHED_BATCH);
    }

    /// The loops' drains share the request.
    fn request_shed(&self, n: usize) {
        self.drains[0].request_shed(n);
    }
}

/// The client has as many connections as it may have.
struct TooMany;

#[cfg(test)]
mod tests;
