//! `SharedConnections`: HTTP/2 connections to one server, which requests share.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use http::{Request, Response, uri};
use tokio::runtime::{Handle, Id};

use super::{
    error::{AttemptError, AttemptErrorKind, Unreachable},
    history::History,
    remote::Shared,
    server_address::Scheme,
};
use crate::{
    body::Body,
    conn::{
        Delivery,
        h2::client::{Cause, Connection, Driver, ExchangeError, handshake},
    },
    net::{Io, clock, tls},
    peer::Deadline,
};

/// The connections of all runtimes. A connection belongs to the runtime that opened it, where a task drives it.
#[derive(Debug, Default)]
pub(super) struct SharedConnections(Mutex<HashMap<Id, Arc<Home>>>);

/// The connections of one runtime.
#[derive(Debug, Default)]
struct Home {
    open: Mutex<Vec<Connection>>,
    /// Held while a connection is being opened, so that a burst of requests opens only one.
    connecting: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedConnections {
    /// Returns the connections of the current runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    fn home(&self) -> Arc<Home> {
        let runtime = Handle::current().id();
        let mut homes = lock(&self.0);
        if let Some(home) = homes.get(&runtime) {
            return home.clone();
        }
        // The tasks of a runtime that has ended have closed its connections.
        homes.retain(|_, home| Arc::strong_count(home) > 1 || home.has_open());
        homes.entry(runtime).or_default().clone()
    }

    /// Returns the number of open connections, in all runtimes.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).values().map(|home| lock(&home.open).len()).sum()
    }
}

impl Home {
    fn has_open(&self) -> bool {
        lock(&self.open).iter().any(|connection| !connection.is_closed())
    }

    /// Returns the oldest connection that allows another request, so that the others become idle.
    fn find(&self) -> Option<Connection> {
        let mut open = lock(&self.open);
        open.retain(|connection| !connection.is_closed());
        open.iter().find(|connection| connection.has_room()).cloned()
    }

    /// Adds a connection, and drives it in a task until it has been idle for `idle_timeout`.
    fn add<I: Io + 'static>(
        self: &Arc<Self>,
        connection: Connection,
        driver: Driver<I>,
        idle_timeout: Duration,
    ) {
        lock(&self.open).push(connection.clone());
        let home = Arc::downgrade(self);
        Handle::current().spawn(async move {
            drive(&connection, driver, idle_timeout).await;
            connection.close();
            if let Some(home) = home.upgrade() {
                lock(&home.open).retain(|connection| !connection.is_closed());
            }
        });
    }
}

/// Drives a connection to its end, or until it has been idle for `idle_timeout`.
async fn drive<I: Io>(connection: &Connection, mut driver: Driver<I>, idle_timeout: Duration) {
    let mut exchanges = connection.exchanges();
    loop {
        match tokio::time::timeout(idle_timeout, &mut driver).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                return tracing::debug!(target: "vestibule::upstream", %error, "a connection to a server failed");
            }
            Err(_) if connection.active() > 0 || connection.exchanges() != exchanges => {
                exchanges = connection.exchanges();
            }
            Err(_) => return, // dropped, which closes it
        }
    }
}

/// The application protocols that are offered to a server (ALPN).
pub(super) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Sends a request on a connection with a free stream, or on a new one. If the server selects HTTP/1.1, the request
/// is sent by that.
pub(super) async fn send(
    shared: Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, AttemptError> {
    let home = shared.connections.home();
    let connection = match home.find() {
        Some(connection) => connection,
        None => {
            let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
            match connect(&shared, &home, deadline).await {
                Ok(Some(connection)) => connection,
                Ok(None) => return shared.http1.send(request, ()).await,
                Err(error) => return Err(error.with_request(request)),
            }
        }
    };
    connection.exchange(request).await.map_err(attempt_error)
}

/// Returns a connection, within the connect timeout and until the request's deadline; `None` if the server selects
/// HTTP/1.1.
async fn connect(
    shared: &Shared,
    home: &Arc<Home>,
    deadline: Option<Instant>,
) -> Result<Option<Connection>, AttemptError> {
    let timeout = shared.http1.config().connect_timeout;
    let until_deadline = deadline.map(|d| d.saturating_duration_since(clock::now()));
    let allowed = until_deadline.map_or(timeout, |left| left.min(timeout));
    let source = match tokio::time::timeout(allowed, try_connect(shared, home)).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => error,
        Err(_) if until_deadline.is_some_and(|left| left <= timeout) => {
            let cause = Cause::Deadline.into_error();
            return Err(AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, cause));
        }
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    let source = Unreachable::into_error(shared.http1.address.clone(), source);
    Err(AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, source))
}

async fn try_connect(shared: &Shared, home: &Arc<Home>) -> io::Result<Option<Connection>> {
    let _one_at_a_time = home.connecting.lock().await;
    if let Some(connection) = home.find() {
        return Ok(Some(connection)); // another request has opened it
    }
    let stream = shared.connector.connect().await?;
    if shared.scheme == Scheme::Https && tls::alpn(&stream) != Some(b"h2") {
        shared.speaks_http1.store(true, Ordering::Relaxed);
        return Ok(None);
    }
    let scheme = match shared.scheme {
        Scheme::Https => uri::Scheme::HTTPS,
        Scheme::Http | Scheme::Http2 => uri::Scheme::HTTP,
    };
    let limits = shared.http1.protocol.limits.clone();
    let (connection, driver) = handshake(stream, scheme, limits).await?;
    home.add(connection.clone(), driver, shared.http1.config().idle_timeout);
    Ok(Some(connection))
}

/// Converts the error of an exchange, with the request if it was returned.
#[cold]
fn attempt_error(error: ExchangeError) -> AttemptError {
    let ExchangeError { cause, delivery, request, .. } = error;
    let kind = match cause {
        // The connection ends, or the server allows no further request on it: another connection can be used.
        Cause::Closed(_) | Cause::Reset(_) if delivery == Delivery::NotSent => {
            AttemptErrorKind::StaleConnection
        }
        Cause::Closed(_) | Cause::Reset(_) => AttemptErrorKind::ConnectionLost,
        Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
        Cause::Unsendable | Cause::Body(_) => AttemptErrorKind::Request,
    };
    let error = AttemptError::new(kind, delivery, cause.into_error());
    match request {
        Some(mut request) => {
            if kind == AttemptErrorKind::StaleConnection {
                History::require_new_connection(&mut request);
            }
            error.with_request(*request)
        }
        None => error,
    }
}
