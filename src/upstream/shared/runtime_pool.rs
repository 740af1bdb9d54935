//! `RuntimePool`: the HTTP/2 connections of one runtime to a server.

use std::{
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedMutexGuard},
};

use super::lock;
use crate::{
    conn::h2::client::{Activity, Connection, Driver, ReservedStream},
    net::{Io, clock},
    upstream::pooled::{PoolConfig, PoolExhausted},
};

/// Minimum time between two checks whether a connection is idle: 10 ms. With an idle timeout of zero the task would never
/// sleep while requests are in flight.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The connections of one runtime to a server. Tasks of the runtime drive them.
#[derive(Debug, Default)]
pub(super) struct RuntimePool {
    open: Mutex<Vec<OpenConnection>>,
    /// Held while a connection is being opened, so that a burst of requests opens only one. It contains the error of the
    /// last failure.
    connecting: Arc<tokio::sync::Mutex<Option<Arc<io::Error>>>>,
    /// The number of failures to open a connection. Changed only while `connecting` is held.
    failures: AtomicUsize,
    /// Notified when a request or a connection has ended, and when the SETTINGS of a connection have been received.
    freed: Arc<Notify>,
    /// The number of requests that wait because the maximum number of connections is open, which is limited.
    queued: AtomicUsize,
    /// The number of these and of requests that wait for a connection that another request opens.
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
pub(super) enum Checkout {
    /// A stream of an open connection.
    Open(ReservedStream),
    /// The caller must open a connection, and hold the lock meanwhile.
    Connect(Connecting),
    /// The connection for which this request waited could not be opened.
    Failed(Arc<io::Error>),
    /// Two connections for whose SETTINGS this request waited ended without them.
    Ended(io::Error),
}

/// The lock for opening a connection.
pub(super) struct Connecting {
    pool: Arc<RuntimePool>,
    last_error: OwnedMutexGuard<Option<Arc<io::Error>>>,
}

impl Connecting {
    /// Returns the pool of the connection.
    pub(super) fn pool(&self) -> &Arc<RuntimePool> {
        &self.pool
    }

    /// Records a failure, which all requests that wait for this lock share.
    pub(super) fn fail(&mut self, error: io::Error) -> Arc<io::Error> {
        let error = Arc::new(error);
        *self.last_error = Some(error.clone());
        self.pool.failures.fetch_add(1, Ordering::Relaxed);
        error
    }
}

impl RuntimePool {
    pub(super) fn has_open(&self) -> bool {
        lock(&self.open).iter().any(|open| !open.connection.is_closed())
    }

    /// Returns the number of open connections.
    pub(super) fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// Returns whether the maximum number of connections is open.
    pub(super) fn is_full(&self, config: &PoolConfig) -> bool {
        config.max_connections.is_some_and(|max| self.len() >= max)
    }

    /// Returns the number of requests that wait for a connection.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns a stream of the oldest connection that has a free one, so that others become idle, and counts the request. A
    /// connection that has reached its maximum age or number of requests is removed: it ends after its requests in flight.
    /// The first request may come at any age.
    pub(super) fn try_checkout(&self, config: &PoolConfig) -> Option<ReservedStream> {
        let now = clock::now();
        let mut all = lock(&self.open);
        all.retain(|open| {
            let is_young = now.saturating_duration_since(open.opened) < config.max_age;
            let is_reusable = is_young && open.requests < config.max_requests;
            !open.connection.is_closed() && (is_reusable || open.requests == 0)
        });
        let open = all.iter_mut().find(|open| open.connection.has_room())?;
        open.requests += 1;
        // Under the lock, so that another thread does not take the same stream.
        Some(open.connection.clone().reserve())
    }

    /// Removes a connection, unless it has requests, or was checked out since the last call. `requests` is the number of its
    /// requests at that call. One that was removed already ends by itself after its last request.
    fn remove_idle(&self, activity: &Activity, requests: &mut u64) -> bool {
        // A request is checked out, and counted, under the same lock.
        let mut all = lock(&self.open);
        let Some(at) = all.iter().position(|open| activity.is_of(&open.connection)) else {
            return false;
        };
        let is_unused = activity.active() == 0 && all[at].requests == *requests;
        *requests = all[at].requests;
        if is_unused {
            all.remove(at);
        }
        is_unused
    }

    /// Returns the wait for the SETTINGS of a connection that has not received them, up to the connect timeout after its
    /// begin. Until then it serves its first request alone, and whether it has room for others is unknown.
    fn next_settings(
        &self,
        config: &PoolConfig,
    ) -> Option<impl Future<Output = io::Result<()>> + Send + use<>> {
        self.remove_silent(config);
        let all = lock(&self.open);
        let is_new = |c: &Connection| !c.is_closed() && !c.has_settings();
        let OpenConnection { connection, opened, .. } =
            all.iter().find(|open| is_new(&open.connection))?;
        let age = clock::now().saturating_duration_since(*opened);
        Some(connection.settings(config.connect_timeout.saturating_sub(age)))
    }

    /// Returns whether a connection has not received the server's SETTINGS. One that has exceeded the connect timeout is
    /// removed.
    pub(super) fn awaits_settings(&self, config: &PoolConfig) -> bool {
        self.next_settings(config).is_some()
    }

    /// Removes connections whose server has sent no SETTINGS within the connect timeout: each ends after its requests in
    /// flight.
    fn remove_silent(&self, config: &PoolConfig) {
        let now = clock::now();
        let is_young = |open: &OpenConnection| {
            now.saturating_duration_since(open.opened) < config.connect_timeout
        };
        lock(&self.open).retain(|open| open.connection.has_settings() || is_young(open));
    }

    /// Returns a free stream, or the lock for opening a connection. At the maximum number of connections, and while
    /// another request opens one, it waits for either. A burst of requests opens no more connections than the server's
    /// SETTINGS require: only when those of the last connection have come, another one is opened.
    ///
    /// If another request fails to open a connection meanwhile, or the server sends no SETTINGS within the connect timeout,
    /// it returns the error: otherwise requests to a server that does not answer would wait for the timeout one after
    /// another. The wait survives the end of one connection without SETTINGS, but not of a second one.
    ///
    /// `since` is the begin of the request's first wait, which is set here; `None` before it.
    ///
    /// # Errors
    /// More requests wait at the maximum number of connections than may, or the queue timeout has passed. It does not end
    /// the wait for a connection that is being opened, or for its SETTINGS, so that the failure of a server that does not
    /// answer is returned; but no wait for another connection begins after it.
    pub(super) async fn checkout(
        self: &Arc<Self>,
        config: &PoolConfig,
        since: &mut Option<Instant>,
    ) -> Result<Checkout, PoolExhausted> {
        let is_full = || self.is_full(config);
        let mut waiter = None;
        let mut has_ended = false;
        let mut failures = self.failures.load(Ordering::Relaxed);
        loop {
            // Before the check, so that no notification after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(stream) = self.try_checkout(config) {
                return Ok(Checkout::Open(stream));
            }
            if let Some(settings) = self.next_settings(config) {
                Waiter::begin(&mut waiter, self, since);
                let result = tokio::select! {
                    biased;
                    result = settings => result,
                    () = freed.as_mut() => continue, // a stream of another connection may be free
                };
                match result {
                    Ok(()) => continue,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        self.remove_silent(config);
                        return Ok(Checkout::Failed(Arc::new(error)));
                    }
                    Err(error) if has_ended => return Ok(Checkout::Ended(error)),
                    Err(_) => {
                        has_ended = true;
                        continue; // the server may have restarted
                    }
                }
            }
            if !is_full() {
                let last_error = match self.connecting.clone().try_lock_owned() {
                    Ok(last_error) => last_error,
                    Err(_) => {
                        Waiter::begin(&mut waiter, self, since);
                        tokio::select! {
                            biased;
                            last_error = self.connecting.clone().lock_owned() => last_error,
                            () = freed.as_mut() => continue, // a stream may be free before the new connection is open
                        }
                    }
                };
                if let Some(stream) = self.try_checkout(config) {
                    return Ok(Checkout::Open(stream)); // another request has opened it
                }
                if self.awaits_settings(config) {
                    continue; // another request has opened it, and is its first one
                }
                if let Some(error) = &*last_error
                    && self.failures.load(Ordering::Relaxed) != failures
                {
                    return Ok(Checkout::Failed(error.clone()));
                }
                let is_late =
                    |since| clock::now().saturating_duration_since(since) >= config.queue_timeout;
                if since.is_some_and(is_late) {
                    return Err(PoolExhausted::Timeout(config.queue_timeout));
                }
                if !is_full() {
                    return Ok(Checkout::Connect(Connecting { pool: self.clone(), last_error }));
                }
            }
            Waiter::begin(&mut waiter, self, since).wait_in_queue(config, freed).await?;
            failures = self.failures.load(Ordering::Relaxed);
        }
    }

    /// Waits for a free stream until `end`, whose output it returns as the error.
    pub(super) async fn checkout_until<T>(
        &self,
        config: &PoolConfig,
        end: impl Future<Output = T>,
    ) -> Result<ReservedStream, T> {
        let mut end = pin!(end);
        loop {
            // Before the check, so that no notification after it is missed.
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(stream) = self.try_checkout(config) {
                return Ok(stream);
            }
            tokio::select! {
                biased;
                output = end.as_mut() => return Err(output),
                () = freed => {}
            }
        }
    }

    /// Adds a connection, and drives it in a task until it has been idle for `idle_timeout`.
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
        lock(&self.open).push(OpenConnection { connection, opened, requests: 0 });
        let pool = Arc::downgrade(self);
        Handle::current().spawn(async move {
            drive(&pool, &activity, driver, idle_timeout).await;
            activity.close();
            if let Some(pool) = pool.upgrade() {
                lock(&pool.open).retain(|open| !open.connection.is_closed());
                pool.freed.notify_waiters();
            }
        });
    }
}

/// Drives a connection to its end, or until it has been idle for `idle_timeout`; at most twice that time. A connection
/// whose pool was dropped ends by itself after its last request.
async fn drive<I: Io>(
    pool: &Weak<RuntimePool>,
    activity: &Activity,
    mut driver: Driver<I>,
    idle_timeout: Duration,
) {
    let interval = idle_timeout.max(MIN_CHECK_INTERVAL);
    let mut requests = 0;
    loop {
        match tokio::time::timeout(interval, &mut driver).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                return tracing::debug!(target: "vestibule::upstream", %error, "a connection to a server failed");
            }
            Err(_) => {
                let is_idle = |pool: Arc<RuntimePool>| pool.remove_idle(activity, &mut requests);
                if pool.upgrade().is_some_and(is_idle) {
                    return; // dropping the driver closes the connection
                }
            }
        }
    }
}

/// Counts a waiting request until it is dropped.
struct Waiter<'a> {
    pool: &'a RuntimePool,
    /// The begin of the request's first wait.
    since: Instant,
    /// Whether it counts as one that waits because the maximum number of connections is open.
    is_queued: bool,
}

impl<'a> Waiter<'a> {
    /// Counts the request, unless it is counted. Sets `since` if this is its first wait.
    fn begin<'w>(
        waiter: &'w mut Option<Self>,
        pool: &'a RuntimePool,
        since: &mut Option<Instant>,
    ) -> &'w mut Self {
        waiter.get_or_insert_with(|| {
            pool.waiting.fetch_add(1, Ordering::Relaxed);
            let since = *since.get_or_insert_with(clock::now);
            Self { pool, since, is_queued: false }
        })
    }

    /// Waits for `freed`.
    ///
    /// # Errors
    /// The maximum number of requests waits, or the queue timeout has passed.
    async fn wait_in_queue(
        &mut self,
        config: &PoolConfig,
        freed: impl Future<Output = ()>,
    ) -> Result<(), PoolExhausted> {
        if !self.is_queued {
            let max = config.max_queued;
            if self.pool.queued.fetch_add(1, Ordering::Relaxed) >= max {
                self.pool.queued.fetch_sub(1, Ordering::Relaxed);
                return Err(PoolExhausted::QueueFull(max));
            }
            self.is_queued = true;
        }
        match self.since.checked_add(config.queue_timeout) {
            None => freed.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), freed)
                .await
                .map_err(|_| PoolExhausted::Timeout(config.queue_timeout))?,
        }
        Ok(())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.pool.waiting.fetch_sub(1, Ordering::Relaxed);
        if self.is_queued {
            self.pool.queued.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
