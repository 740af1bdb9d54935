//! `SharedConnections`: HTTP/2 connections to one server, which requests share.

mod home;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Instant,
};

use http::{Request, Response, uri};
use tokio::runtime::{Handle, Id};

use self::home::{Home, Place};
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
pub(super) struct SharedConnections(Mutex<HashMap<Id, Arc<Home>>>);

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
        lock(&self.0).values().map(|home| home.len()).sum()
    }

    /// Returns the number of requests that wait for a connection, in all runtimes.
    pub(super) fn waiting(&self) -> usize {
        lock(&self.0).values().map(|home| home.waiting()).sum()
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
    let connection = match home.find(shared.http1.config()) {
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
    match connection.exchange(request).await {
        Ok(response) => Ok(response),
        // A connection of its own, for which ALPN offers HTTP/1.1 alone, as browsers do.
        Err(ExchangeError { cause: Cause::NoExtendedConnect, request: Some(request), .. })
            if shared.scheme == Scheme::Https =>
        {
            shared.http1.send(*request, ()).await
        }
        Err(error) => Err(attempt_error(error)),
    }
}

/// Returns a connection, after a wait at the maximum number of them, within the connect timeout and until the request's
/// deadline; `None` if the server selects HTTP/1.1.
async fn connect(
    shared: &Shared,
    home: &Arc<Home>,
    deadline: Option<Instant>,
) -> Result<Option<Connection>, AttemptError> {
    let config = shared.http1.config();
    let made = async {
        let _connecting = match home.place(config).await.map_err(exhausted)? {
            Place::On(connection) => return Ok(Some(connection)),
            Place::New(connecting) => connecting,
        };
        let source = match tokio::time::timeout(config.connect_timeout, make(shared, home)).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        let source = Unreachable::into_error(shared.http1.address.clone(), source);
        Err(AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, source))
    };
    let Some(deadline) = deadline else { return made.await };
    match tokio::time::timeout_at(deadline.into(), made).await {
        Ok(result) => result,
        Err(_) => {
            let cause = Cause::Deadline.into_error();
            Err(AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, cause))
        }
    }
}

/// Opens a connection for its first request.
async fn make(shared: &Shared, home: &Arc<Home>) -> io::Result<Option<Connection>> {
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
