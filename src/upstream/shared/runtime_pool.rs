//! `RuntimePool`: the HTTP/2 connections of one runtime to a server.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{MutexGuard, Notify},
};

use super::lock;
use crate::{
    conn::h2::client::{Activity, Connection, Driver},
    net::{Io, clock},
    upstream::pooled::{PoolConfig, PoolExhausted},
};

/// The connections of one runtime to a server. Tasks of the runtime drive them.
#[derive(Debug, Default)]
pub(super) struct RuntimePool {
    open: Mutex<Vec<OpenConnection>>,
    /// Held while a connection is being opened, so that a burst of requests opens only one.
    connecting: tokio::sync::Mutex<()>,
    /// Notified when a request or a connection has ended.
    freed: Arc<Notify>,
    /// The number of requests that wait, since the maximum number of connections is open.
    waiting: AtomicUsize,
}

/// A connection, with its age and the number of its requests.
#[derive(Debug)]
struct OpenConnection {
    connection: Connection,
    opened: Instant,
    requests: u64,
}

/// The result of [`RuntimePool::checkout`].
pub(super) enum Checkout<'a> {
    /// An open connection with a free stream.
    Open(Connection),
    /// The caller must open a connection, and holds the lock meanwhile.
    Connect(MutexGuard<'a, ()>),
}

impl RuntimePool {
    pub(super) fn has_open(&self) -> bool {
        lock(&self.open).iter().any(|open| !open.connection.is_closed())
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Returns the number of requests that wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns the oldest connection with a free stream, so that others become idle, and counts the request. A connection
    /// that has reached its maximum age or number of requests is removed: it ends after its requests in flight.
    pub(super) fn try_checkout(&self, config: &PoolConfig) -> Option<Connection> {
        let now = clock::now();
        let mut all = lock(&self.open);
        all.retain(|open| {
            let is_young = now.saturating_duration_since(open.opened) < config.max_age;
            !open.connection.is_closed() && is_young && open.requests < config.max_requests
        });
        let open = all.iter_mut().find(|open| open.connection.has_room())?;
        open.requests += 1;
        Some(open.connection.clone())
    }

    /// Returns a connection with a free stream, or the lock for opening one. At the maximum number of connections it
    /// waits for either.
    pub(super) async fn checkout(
        &self,
        config: &PoolConfig,
    ) -> Result<Checkout<'_>, PoolExhausted> {
        let is_full = || config.max_connections.is_some_and(|max| self.len() >= max);
        let mut waiter = None;
        loop {
            // Before the check, so that no notification after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(connection) = self.try_checkout(config) {
                return Ok(Checkout::Open(connection));
            }
            if !is_full() {
                let connecting = self.connecting.lock().await;
                if let Some(connection) = self.try_checkout(config) {
                    return Ok(Checkout::Open(connection)); // another request has opened it
                }
                if !is_full() {
                    return Ok(Checkout::Connect(connecting));
                }
            }
            let waiter = match &mut waiter {
                Some(waiter) => waiter,
                None => waiter.insert(Waiter::new(self, config)?),
            };
            if !waiter.wait(freed).await {
                return Err(PoolExhausted::Timeout(config.queue_timeout));
            }
        }
    }

    /// Adds a connection, with its first request, and drives it in a task until it has been idle for `idle_timeout`.
    pub(super) fn add<I: Io + 'static>(
        self: &Arc<Self>,
        connection: Connection,
        driver: Driver<I>,
        idle_timeout: Duration,
    ) {
        connection.notify_when_freed(self.freed.clone());
        // The task has no handle of the connection, so that a removed connection ends after its last request.
        let activity = connection.activity();
        let opened = clock::now();
        lock(&self.open).push(OpenConnection { connection, opened, requests: 1 });
        let pool = Arc::downgrade(self);
        Handle::current().spawn(async move {
            drive(&activity, driver, idle_timeout).await;
            activity.close();
            if let Some(pool) = pool.upgrade() {
                lock(&pool.open).retain(|open| !open.connection.is_closed());
                pool.freed.notify_waiters();
            }
        });
    }
}

/// Drives a connection to its end, or until it has been idle for `idle_timeout`.
async fn drive<I: Io>(activity: &Activity, mut driver: Driver<I>, idle_timeout: Duration) {
    let mut exchanges = activity.exchanges();
    loop {
        match tokio::time::timeout(idle_timeout, &mut driver).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                return tracing::debug!(target: "vestibule::upstream", %error, "a connection to a server failed");
            }
            Err(_) if activity.active() > 0 || activity.exchanges() != exchanges => {
                exchanges = activity.exchanges();
            }
            Err(_) => return, // dropping the driver closes the connection
        }
    }
}

/// Counts a waiting request until it is dropped.
struct Waiter<'a> {
    pool: &'a RuntimePool,
    /// The end of the queue timeout.
    deadline: Option<Instant>,
}

impl<'a> Waiter<'a> {
    /// # Errors
    /// The maximum number of requests waits.
    fn new(pool: &'a RuntimePool, config: &PoolConfig) -> Result<Self, PoolExhausted> {
        let max = config.max_queued;
        if pool.waiting.fetch_add(1, Ordering::Relaxed) >= max {
            pool.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(PoolExhausted::QueueFull(max));
        }
        Ok(Self { pool, deadline: clock::now().checked_add(config.queue_timeout) })
    }

    /// Waits for `freed`. Returns `false` when the queue timeout has passed.
    async fn wait(&self, freed: impl Future<Output = ()>) -> bool {
        match self.deadline {
            None => {
                freed.await;
                true
            }
            Some(deadline) => tokio::time::timeout_at(deadline.into(), freed).await.is_ok(),
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
