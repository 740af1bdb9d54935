//! `Admission`: decides which connections are admitted, and when.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    conn::{Config, per_client::ClientConnection},
    net::{Accepted, Acceptor, Drain},
};

/// The number of connections of each loop that are woken in the first round to shed idle ones.
const FIRST_WAKE: usize = 64;

/// The maximum number of idle connections that are requested to end at once.
const SHED_BATCH: usize = 64;

/// Initial and maximum time that the loop waits for a permit before it wakes more connections. If none can end, 8,192
/// connections are woken within 70 ms.
const SHED_PAUSE: Duration = Duration::from_millis(10);
const MAX_SHED_PAUSE: Duration = Duration::from_millis(160);

/// The limits that all accept loops of a server share.
pub(super) struct Admission {
    /// It has the gate, and the count of each client's connections.
    config: Arc<Config>,
    /// A permit for each connection that may be opened.
    permits: Arc<Semaphore>,
    /// The drain of each loop's connections.
    drains: Vec<Drain>,
}

/// An admitted connection, which has one of the permits.
pub(super) struct Admitted {
    pub(super) accepted: Accepted,
    /// Its entry in the client's count, if there is a limit and the client is known.
    pub(super) counted: Option<Box<ClientConnection>>,
}

/// The state of one accept loop that sheds idle connections while the server is full.
///
/// The number of clients in the kernel's accept queue is unknown. So the loop sheds one connection, and twice as
/// many each time that another client waits.
pub(super) struct Shedding {
    batch: usize,
}

impl Default for Shedding {
    fn default() -> Self {
        Self { batch: 1 }
    }
}

impl Admission {
    pub(super) fn new(loops: usize, limit: usize, config: Arc<Config>) -> Self {
        let permits = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let first = Drain::with_permits(permits.clone());
        let drains = std::iter::repeat_with(|| first.sibling()).take(loops).collect();
        Self { config, permits, drains }
    }

    /// Returns the drain of loop `n`; its watches return the permits.
    pub(super) fn drain(&self, n: usize) -> &Drain {
        &self.drains[n]
    }

    /// Returns the next admitted connection.
    pub(super) async fn next(&self, acceptor: &mut Acceptor, shedding: &mut Shedding) -> Admitted {
        // The permit comes after the connection: a thread that waits for a connection must not hold a permit
        // for which the client of another thread waits.
        let (accepted, counted) = loop {
            self.config.gate.opened().await;
            let accepted = self.accept(acceptor, shedding).await;
            let Some(per_client) = &self.config.per_client else { break (accepted, None) };
            if self.config.expects_proxy_header(&accepted.peer) {
                break (accepted, None); // counted when its client is known
            }
            if let Some(counted) = per_client.try_count(&accepted.peer) {
                break (accepted, Some(Box::new(counted)));
            }
            tracing::debug!(peer = %accepted.peer, "closed: the client has reached connections_per_client");
        };
        self.acquire_permit(shedding).await;
        Admitted { accepted, counted }
    }

    async fn accept(&self, acceptor: &mut Acceptor, shedding: &mut Shedding) -> Accepted {
        let mut accept = pin!(acceptor.accept());
        if let Poll::Ready(accepted) = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await {
            return accepted;
        }
        if shedding.batch > 1 {
            // All waiting clients have been admitted.
            *shedding = Shedding::default();
            self.request_shed(0);
        }
        accept.await
    }

    /// Acquires a permit and forgets it: the connection's watch returns it. While there is none, idle
    /// connections are requested to end.
    async fn acquire_permit(&self, shedding: &mut Shedding) {
        if let Ok(permit) = self.permits.try_acquire() {
            return permit.forget();
        }
        let mut acquire = pin!(self.permits.acquire());
        let (mut wake, mut pause) = (FIRST_WAKE, SHED_PAUSE);
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

    /// Requests that `n` idle connections end; all loops share the request.
    fn request_shed(&self, n: usize) {
        self.drains[0].request_shed(n);
    }
}

#[cfg(test)]
mod tests;
