//! The door: which connections are let in, and when.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::tally::Tally;
use crate::{
    net::{Accepted, Acceptor, Drain, Gate},
    peer::Peer,
};

/// While a client waits for a place, some idle connections are asked to end so often: each time
/// others, so a thousand have been asked in a fifth of a second.
const MAKE_ROOM: Duration = Duration::from_millis(10);

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
        let drain = || Drain::with_permits(permits.clone());
        let drains = std::iter::repeat_with(drain).take(loops).collect();
        Self { gate, permits, tally: per_client.map(Tally::new), drains }
    }

    /// The register of loop `n`; its watches give the permits back.
    pub(super) fn drain(&self, n: usize) -> &Drain {
        &self.drains[n]
    }

    /// The next connection.
    pub(super) async fn next(&self, acceptor: &mut Acceptor) -> Entered {
        // Accepted first, then allowed: a thread that waits for a connection must not hold a
        // place that another one's client waits for.
        let (accepted, counted) = loop {
            self.gate.opened().await;
            let accepted = acceptor.accept().await;
            match self.count(&accepted.peer) {
                Ok(counted) => break (accepted, counted),
                Err(TooMany) => {
                    tracing::debug!(peer = %accepted.peer, "too many connections of this client");
                }
            }
        };
        self.permit().await;
        Entered { accepted, counted }
    }

    fn count(&self, peer: &Peer) -> Result<Option<Box<Counted>>, TooMany> {
        let Some(tally) = &self.tally else { return Ok(None) };
        if !tally.admits(peer) {
            return Err(TooMany);
        }
        Ok(Some(Box::new(Counted { tally: tally.clone(), peer: peer.clone() })))
    }

    /// Takes a permit and forgets it: the connection's watch gives it back. While there is none,
    /// idle connections are asked for theirs.
    async fn permit(&self) {
        if let Ok(permit) = self.permits.try_acquire() {
            return permit.forget();
        }
        let mut acquire = std::pin::pin!(self.permits.acquire());
        let permit = loop {
            match tokio::time::timeout(MAKE_ROOM, &mut acquire).await {
                Ok(permit) => break permit,
                Err(_) => self.drains.iter().for_each(Drain::make_room),
            }
        };
        permit.expect("the semaphore is never closed").forget();
        self.drains.iter().for_each(Drain::has_room);
    }
}

/// The client has as many connections as it may have.
struct TooMany;
