//! `Home`: the HTTP/2 connections to a server of one runtime, within the limits of its pool.

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

/// The connections of one runtime, which drives them.
#[derive(Debug, Default)]
pub(super) struct Home {
    open: Mutex<Vec<Open>>,
    /// Held while a connection is being opened, so that a burst of requests opens only one.
    connecting: tokio::sync::Mutex<()>,
    /// Notified when a request or a connection has ended.
    freed: Arc<Notify>,
    /// Requests that wait at the maximum number of connections.
    waiting: AtomicUsize,
}

/// A connection, and what its limits count.
#[derive(Debug)]
struct Open {
    connection: Connection,
    opened: Instant,
    requests: u64,
}

/// What a request gets from a [`Home`].
pub(super) enum Place<'a> {
    /// A connection that takes it.
    On(Connection),
    /// The right to open a connection.
    New(MutexGuard<'a, ()>),
}

impl Home {
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

    /// Returns a connection that takes another request, the oldest such one, so that others become idle. The request
    /// is counted. A connection that has reached its age or its number of requests is removed: it ends after the
    /// requests that are in flight on it.
    pub(super) fn find(&self, config: &PoolConfig) -> Option<Connection> {
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

    /// Returns a connection, or the right to open one. At the maximum number of connections it waits, in order of arrival.
    pub(super) async fn place(&self, config: &PoolConfig) -> Result<Place<'_>, PoolExhausted> {
        let is_full = || config.max_connections.is_some_and(|max| self.len() >= max);
        let mut wait = None;
        loop {
            // Before the check, so that no notification after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(connection) = self.find(config) {
                return Ok(Place::On(connection));
            }
            if !is_full() {
                let connecting = self.connecting.lock().await;
                if let Some(connection) = self.find(config) {
                    return Ok(Place::On(connection)); // another request has opened it
                }
                if !is_full() {
                    return Ok(Place::New(connecting));
                }
            }
            let wait = match &mut wait {
                Some(wait) => wait,
                None => wait.insert(Waiting::begin(self, config)?),
            };
            if !wait.until(freed).await {
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
        // No handle of it: a removed connection ends with its last request.
        let activity = connection.activity();
        let opened = clock::now();
        lock(&self.open).push(Open { connection, opened, requests: 1 });
        let home = Arc::downgrade(self);
        Handle::current().spawn(async move {
            drive(&activity, driver, idle_timeout).await;
            activity.close();
            if let Some(home) = home.upgrade() {
                lock(&home.open).retain(|open| !open.connection.is_closed());
                home.freed.notify_waiters();
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
            Err(_) => return, // dropped, which closes it
        }
    }
}

/// A request that waits, until it is dropped.
struct Waiting<'a> {
    home: &'a Home,
    until: Option<Instant>,
}

impl<'a> Waiting<'a> {
    fn begin(home: &'a Home, config: &PoolConfig) -> Result<Self, PoolExhausted> {
        let max = config.max_queued;
        if home.waiting.fetch_add(1, Ordering::Relaxed) >= max {
            home.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(PoolExhausted::QueueFull(max));
        }
        Ok(Self { home, until: clock::now().checked_add(config.queue_timeout) })
    }

    /// Waits for `freed`. Returns `false` if the time has passed.
    async fn until(&self, freed: impl Future<Output = ()>) -> bool {
        match self.until {
            None => {
                freed.await;
                true
            }
            Some(until) => tokio::time::timeout_at(until.into(), freed).await.is_ok(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.home.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
