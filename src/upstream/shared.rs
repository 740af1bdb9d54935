//! `SharedConnections`: HTTP/2 connections to one server, which requests share.

mod runtime_pool;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use http::{Request, Response, uri};
use tokio::runtime::{Handle, Id};

use self::runtime_pool::{Checkout, RuntimePool};
use super::{
    error::{AttemptError, AttemptErrorKind, Unreachable},
    history::History,
    pooled::PoolExhausted,
    remote::Shared,
    server_address::Scheme,
};
use crate::{
    body::Body,
    conn::{
        Delivery,
        h2::client::{Cause, Connection, ExchangeError, handshake},
    },
    error::{Error, Kind},
    net::tls,
    peer::Deadline,
};

/// The connections of all runtimes. A connection belongs to the runtime that opened it, where a task drives it.
#[derive(Debug, Default)]
pub(super) struct SharedConnections(Mutex<HashMap<Id, Arc<RuntimePool>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SharedConnections {
    /// Returns the connections of the current runtime.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    fn pool(&self) -> Arc<RuntimePool> {
        let runtime = Handle::current().id();
        let mut pools = lock(&self.0);
        if let Some(pool) = pools.get(&runtime) {
            return pool.clone();
        }
        // The tasks of a runtime that has ended have closed its connections.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.has_open());
        pools.entry(runtime).or_default().clone()
    }

    /// Returns the number of open connections, in all runtimes.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).values().map(|pool| pool.len()).sum()
    }

    /// Returns the number of requests that wait for a connection, in all runtimes.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.0).values().map(|pool| pool.waiting()).sum()
    }
}

/// The application protocols that are offered to a server (ALPN).
pub(super) const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Sends a request on a connection with a free stream, or on a new one; by HTTP/1.1 if the server selects that.
pub(super) async fn send(
    shared: Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, AttemptError> {
    let pool = shared.connections.pool();
    let connection = match pool.try_checkout(shared.http1.config()) {
        Some(connection) => connection,
        None => {
            let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
            match connect(&shared, &pool, deadline).await {
                Ok(Some(connection)) => connection,
                Ok(None) => return shared.http1.send(request, ()).await,
                Err(error) => return Err(error.with_request(request)),
            }
        }
    };
    match connection.exchange(request).await {
        Ok(response) => Ok(response),
        // Sent on a connection whose ALPN offers HTTP/1.1 alone, as browsers do.
        Err(ExchangeError { cause: Cause::NoExtendedConnect, request: Some(request), .. })
            if shared.scheme == Scheme::Https =>
        {
            shared.http1.send(*request, ()).await
        }
        Err(error) => Err(attempt_error(error)),
    }
}

/// Returns a connection with a free stream, or opens one within the connect timeout. At the maximum number of connections
/// it waits for one, at most until the request's deadline. Returns `None` if the server selects HTTP/1.1.
async fn connect(
    shared: &Shared,
    pool: &Arc<RuntimePool>,
    deadline: Option<Instant>,
) -> Result<Option<Connection>, AttemptError> {
    let config = shared.http1.config();
    let connected = async {
        let _connecting = match pool.checkout(config).await.map_err(exhausted)? {
            Checkout::Open(connection) => return Ok(Some(connection)),
            Checkout::Connect(connecting) => connecting,
        };
        let source = match tokio::time::timeout(config.connect_timeout, open(shared, pool)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        let source = Unreachable::into_error(shared.http1.address.clone(), source);
        Err(AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, source))
    };
    let Some(deadline) = deadline else { return connected.await };
    match tokio::time::timeout_at(deadline.into(), connected).await {
        Ok(result) => result,
        Err(_) => {
            let cause = Cause::Deadline.into_error();
            Err(AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, cause))
        }
    }
}

/// Opens a connection for its first request.
async fn open(shared: &Shared, pool: &Arc<RuntimePool>) -> io::Result<Option<Connection>> {
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
    let driver = driver.budget(shared.budget.clone());
    pool.add(connection.clone(), driver, shared.http1.config().idle_timeout);
    Ok(Some(connection))
}

/// Converts the error of a request that has waited for a connection until its timeout.
#[cold]
fn exhausted(why: PoolExhausted) -> AttemptError {
    let source = Error::new(Kind::Overloaded, why);
    AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, source)
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
        Cause::Unsendable | Cause::NoExtendedConnect | Cause::Body(_) => AttemptErrorKind::Request,
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
