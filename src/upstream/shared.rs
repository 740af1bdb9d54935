//! `SharedConnections`: HTTP/2 connections to one server, which requests share.

mod runtime_pool;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use http::{Request, Response, uri};
use tokio::{
    runtime::{Handle, Id},
    sync::oneshot,
};

use self::runtime_pool::{Checkout, Connecting, RuntimePool};
use super::{
    error::{AttemptError, AttemptErrorKind, Unreachable},
    pooled::PoolExhausted,
    remote::Shared,
    server_address::Scheme,
};
use crate::{
    body::Body,
    conn::{
        Delivery,
        h2::client::{Cause, Connection, ExchangeError, ReservedStream, handshake},
    },
    error::{Error, Kind},
    net::{clock, tls},
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

/// Maximum number of connections that a server may end by GOAWAY without an error before it has processed a request, for which the attempt
/// continues on another one: 5, as in Go's transport. A server that ends its connections after a number of requests does
/// so with requests on their way, more than it takes on one connection if many are sent at once.
const MAX_GOAWAYS: usize = 5;

/// Sends a request on a connection with a free stream, or on a new one; by HTTP/1.1 if the server selects that.
pub(super) async fn send(
    shared: Arc<Shared>,
    mut request: Request<Body>,
) -> Result<Response<Body>, AttemptError> {
    let pool = shared.connections.pool();
    let mut goaways = 0;
    loop {
        let stream = match pool.try_checkout(shared.http1.config()) {
            Some(stream) => stream,
            None => {
                let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
                match connect(&shared, &pool, deadline).await {
                    Ok(Some(stream)) => stream,
                    Ok(None) => return shared.http1.send(request, ()).await,
                    Err(error) => return Err(error.with_request(request)),
                }
            }
        };
        match stream.exchange(request).await {
            Ok(response) => return Ok(response),
            // Sent on a connection whose ALPN offers HTTP/1.1 alone, as browsers do.
            Err(ExchangeError {
                cause: Cause::NoExtendedConnect, request: Some(unsent), ..
            }) if shared.scheme == Scheme::Https => return shared.http1.send(*unsent, ()).await,
            Err(ExchangeError {
                cause: Cause::Closed(error),
                delivery: Delivery::NotSent,
                request: Some(unprocessed),
                ..
            }) if goaways < MAX_GOAWAYS && is_graceful_end(&error) => {
                goaways += 1;
                request = *unprocessed;
            }
            Err(error) => return Err(attempt_error(error)),
        }
    }
}

/// Returns whether the server has ended a connection without an error (RFC 9113 section 6.8).
fn is_graceful_end(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Returns a free stream, or opens a connection, at most until the request's deadline. Returns `None` if the server selects
/// HTTP/1.1.
async fn connect(
    shared: &Arc<Shared>,
    pool: &Arc<RuntimePool>,
    deadline: Option<Instant>,
) -> Result<Option<ReservedStream>, AttemptError> {
    let mut is_opening = false;
    let connected = checkout_or_open(shared, pool, &mut is_opening);
    let Some(deadline) = deadline else { return connected.await };
    if deadline <= clock::now() {
        return Err(too_late().excuse_endpoint());
    }
    match tokio::time::timeout_at(deadline.into(), connected).await {
        Ok(result) => result,
        Err(_) if is_opening || pool.awaits_settings(shared.http1.config()) => Err(too_late()),
        // The request has waited for others, and the server serves them.
        Err(_) if pool.has_open() => Err(too_late().excuse_endpoint()),
        Err(_) => Err(too_late()),
    }
}

/// Returns a free stream, or opens a connection within the connect timeout. While other requests open one, and at the
/// maximum number of connections, it waits, at most for the queue timeout. `is_opening` is true while it waits for the
/// connection that it opens. Returns `None` if the server selects HTTP/1.1.
async fn checkout_or_open(
    shared: &Arc<Shared>,
    pool: &Arc<RuntimePool>,
    is_opening: &mut bool,
) -> Result<Option<ReservedStream>, AttemptError> {
    let config = shared.http1.config();
    let mut since = None;
    let error = loop {
        match pool.checkout(config, &mut since).await.map_err(exhausted)? {
            Checkout::Open(stream) => return Ok(Some(stream)),
            Checkout::Failed(error) => break error,
            // The first request on the connection tells whether the server has failed.
            Checkout::Ended(error) => {
                let source = Unreachable::into_error(shared.http1.address.clone(), error);
                return Err(AttemptError::new(
                    AttemptErrorKind::StaleConnection,
                    Delivery::NotSent,
                    source,
                ));
            }
            // Another request has learned it.
            Checkout::Connect(_) if shared.http1_choice.is_made() => return Ok(None),
            Checkout::Connect(connecting) => {
                since.get_or_insert_with(clock::now);
                let opened = spawn_open(shared.clone(), connecting);
                *is_opening = true;
                let opened = match pool.checkout_until(config, opened).await {
                    Ok(stream) => return Ok(Some(stream)),
                    Err(opened) => opened,
                };
                *is_opening = false;
                match opened {
                    // The server has ended it at once: the request fails as on any connection that has ended. Another one
                    // would end, too.
                    Ok(Ok(Opened::Http2(connection))) if connection.is_closed() => {
                        return Ok(Some(connection.reserve()));
                    }
                    Ok(Ok(Opened::Http2(_))) => {} // other requests have its streams
                    Ok(Ok(Opened::Http1)) => return Ok(None),
                    Ok(Err(error)) => break error,
                    Err(_) => break Arc::new(io::ErrorKind::ConnectionAborted.into()), // it has panicked
                }
            }
        }
    };
    // An error of its own, with the code of the system call.
    let source = match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error),
    };
    Err(Unreachable::into_attempt_error(shared.http1.address.clone(), source))
}

/// The protocol of a connection that was opened.
enum Opened {
    Http1,
    /// The connection was added to the pool.
    Http2(Connection),
}

/// Opens a connection within the connect timeout, in a task: it continues if the request uses a stream of another connection
/// that is freed meanwhile, or is cancelled.
fn spawn_open(
    shared: Arc<Shared>,
    mut connecting: Connecting,
) -> oneshot::Receiver<Result<Opened, Arc<io::Error>>> {
    let (sender, receiver) = oneshot::channel();
    Handle::current().spawn(async move {
        let opened = open(&shared, connecting.pool());
        let opened = tokio::time::timeout(shared.http1.config().connect_timeout, opened).await;
        let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        // Before the lock is released, so that this request is woken before those that wait for the lock.
        let _ = sender.send(opened.map_err(|error| connecting.fail(error)));
    });
    receiver
}

/// Returns the error of a request whose deadline has passed.
fn too_late() -> AttemptError {
    let cause = Cause::Deadline.into_error();
    AttemptError::new(AttemptErrorKind::Timeout, Delivery::NotSent, cause)
}

/// Opens a connection, and adds it to the pool if the server selects HTTP/2.
async fn open(shared: &Shared, pool: &Arc<RuntimePool>) -> io::Result<Opened> {
    let stream = shared.connector.connect().await?;
    if shared.scheme == Scheme::Https && tls::alpn(&stream) != Some(b"h2") {
        shared.http1_choice.make();
        return Ok(Opened::Http1);
    }
    let scheme = match shared.scheme {
        Scheme::Https => uri::Scheme::HTTPS,
        Scheme::Http | Scheme::Http2 => uri::Scheme::HTTP,
    };
    let limits = shared.http1.protocol.limits.clone();
    let (connection, driver) = handshake(stream, scheme, limits).await?;
    let driver = driver.budget(shared.budget.clone());
    pool.add(connection.clone(), driver, shared.http1.config().idle_timeout);
    Ok(Opened::Http2(connection))
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
    let ExchangeError { cause, delivery, request, awaits_body, had_settings } = error;
    // Nothing was sent, or the client has not sent all of the request.
    let is_excused =
        matches!(cause, Cause::Deadline) && (delivery == Delivery::NotSent || awaits_body);
    let kind = match cause {
        // The server has never served this connection, as one that closes each connection does, so it may not serve another.
        Cause::Closed(_) if !had_settings => AttemptErrorKind::ConnectionLost,
        // The connection ends, or the server allows no further request on it: another connection can be used.
        Cause::Closed(_) | Cause::Reset(_) if delivery == Delivery::NotSent => {
            AttemptErrorKind::StaleConnection
        }
        Cause::Closed(_) | Cause::Reset(_) => AttemptErrorKind::ConnectionLost,
        Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
        Cause::Unsendable | Cause::NoExtendedConnect | Cause::Body(_) => AttemptErrorKind::Request,
    };
    let mut error = AttemptError::new(kind, delivery, cause.into_error());
    if is_excused {
        error = error.excuse_endpoint();
    }
    match request {
        // The next attempt finds no connection that has ended, so it needs no new one.
        Some(request) => error.with_request(*request),
        None => error,
    }
}
