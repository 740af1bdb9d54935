//! `Admission`: decides which connections are admitted, and when.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::sync::{Semaphore, SemaphorePermit};

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

/// The times, in milliseconds, that the loop waits for a descriptor of a connection that is shed. All but the last are
/// together longer than a connection must be idle.
const EXHAUSTED_PAUSES: [u64; 6] = [10, 20, 40, 80, 160, 20];

/// The limits that all accept loops of a server share.
pub(super) struct Admission {
    /// It has the gate, and the count of each client's connections.
    config: Arc<Config>,
    /// A permit for each connection that may be opened.
    permits: Arc<Semaphore>,
    /// The drain of each loop's connections.
    drains: Vec<Drain>,
}

/// An admitted connection. Its watch returns its permit.
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

impl Shedding {
    fn double(&mut self) {
        self.batch = (2 * self.batch).min(SHED_BATCH);
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

    /// Returns the next admitted connection. Until it has a permit, it is in `waiting`, so that it is not lost if the
    /// future is dropped.
    pub(super) async fn next(
        &self,
        acceptor: &mut Acceptor,
        shedding: &mut Shedding,
        waiting: &mut Option<Admitted>,
    ) -> Admitted {
        // The permit comes after the connection: a thread that waits for a connection must not hold a permit
        // for which the client of another thread waits.
        while waiting.is_none() {
            self.config.gate.opened().await;
            let accepted = self.accept(acceptor, shedding).await;
            *waiting = self.count(accepted);
        }
        self.acquire_permit(shedding).await;
        waiting.take().expect("set just above")
    }

    /// Acquires a permit and forgets it, if there is one now: the connection's watch returns it.
    pub(super) fn try_acquire_permit(&self) -> bool {
        self.permits.try_acquire().map(SemaphorePermit::forget).is_ok()
    }

    /// Acquires a permit and forgets it, without a request to shed idle connections.
    pub(super) async fn acquire_permit_in_drain(&self) {
        self.permits.acquire().await.expect("the semaphore is never closed").forget();
    }

    /// Counts a connection of its client. Returns `None` if the client has reached its limit.
    pub(super) fn count(&self, accepted: Accepted) -> Option<Admitted> {
        let Some(per_client) = &self.config.per_client else {
            return Some(Admitted { accepted, counted: None });
        };
        if self.config.expects_proxy_header(&accepted.peer) {
            return Some(Admitted { accepted, counted: None }); // counted when its client is known
        }
        let counted = per_client.try_count(&accepted.peer);
        if counted.is_none() {
            tracing::debug!(peer = %accepted.peer, "closed: the client has reached connections_per_client");
        }
        Some(Admitted { accepted, counted: Some(Box::new(counted?)) })
    }

    /// Accepts the next connection. Without a free descriptor, idle connections are requested to end first; if none
    /// does, the client is refused.
    async fn accept(&self, acceptor: &mut Acceptor, shedding: &mut Shedding) -> Accepted {
        let (mut wake, mut pauses) = (FIRST_WAKE, EXHAUSTED_PAUSES.iter());
        loop {
            let error = match self.accept_unless_exhausted(acceptor, shedding).await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            let Some(&pause) = pauses.next() else {
                acceptor.refuse_one(&error).await;
                // The next client waits only for connections that have become idle since.
                pauses = EXHAUSTED_PAUSES[..1].iter();
                continue;
            };
            self.request_shed(shedding.batch);
            self.wake_next(wake);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            shedding.double();
            wake = wake.saturating_mul(4);
        }
    }

    async fn accept_unless_exhausted(
        &self,
        acceptor: &mut Acceptor,
        shedding: &mut Shedding,
    ) -> io::Result<Accepted> {
        let mut accept = pin!(acceptor.accept_unless_exhausted());
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
        if self.try_acquire_permit() {
            return;
        }
        let mut acquire = pin!(self.permits.acquire());
        let (mut wake, mut pause) = (FIRST_WAKE, SHED_PAUSE);
        let permit = loop {
            self.request_shed(shedding.batch);
            self.wake_next(wake);
            match tokio::time::timeout(pause, &mut acquire).await {
                Ok(permit) => break permit,
                Err(_) => {
                    wake = wake.saturating_mul(4);
                    pause = (2 * pause).min(MAX_SHED_PAUSE);
                }
            }
        };
        permit.expect("the semaphore is never closed").forget();
        shedding.double();
    }

    /// Requests that `n` idle connections end; all loops share the request.
    fn request_shed(&self, n: usize) {
        self.drains[0].request_shed(n);
    }

    /// Wakes `n` connections of each loop, so that the idle ones among them see the request.
    fn wake_next(&self, n: usize) {
        self.drains.iter().for_each(|drain| drain.wake_next(n));
    }
}

#[cfg(test)]
mod tests;
