//! `Server`: a server at an address with a pool of idle connections, for any protocol.

mod capacity;
mod config;
mod connect;
mod exchange;
mod idle_limit;
mod pool;
mod reaper;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, Weak},
    time::Instant,
};

use http::Request;

use self::{capacity::Capacity, idle_limit::Evict, pool::Pool};
use super::{
    connector::{Connector, ServerStream},
    error::{AttemptError, AttemptErrorKind, Unreachable},
    history::History,
};
use crate::{
    body::Body,
    conn::{
        Delivery,
        client::{self, Cause, ExchangeError, sealed},
    },
    net::Address,
};

pub use capacity::PoolExhausted;
pub use config::{
    CONNECT_TIMEOUT, IDLE_TIMEOUT, MAX_AGE, MAX_QUEUED, NON_IDEMPOTENT_IDLE_TIMEOUT, PoolConfig,
    QUEUE_TIMEOUT,
};
pub(super) use exchange::ResponseFuture;
pub use idle_limit::{IdleLimit, TOTAL_IDLE};

/// The protocol of a server, and its options.
pub(super) trait Protocol: Send + Sync + Sized + 'static {
    /// The core of a connection.
    type Core: client::Protocol;

    /// Whether a server may still work on a request after its response, and even write. Then a connection is used again
    /// only if the server has read all that was sent to it, and has sent nothing.
    const WORKS_AFTER_RESPONSE: bool = false;

    /// Creates a connection from a stream.
    fn connection(&self, stream: ServerStream) -> Connection<Self>;

    /// Returns what failed in an attempt whose response violates the protocol.
    fn classify_fault(fault: &Fault<Self>) -> AttemptErrorKind;
}

type Connection<P> = client::Connection<<P as Protocol>::Core, ServerStream>;
type Fault<P> = <<P as Protocol>::Core as sealed::Protocol>::Fault;
type Extra<P> = <<P as Protocol>::Core as sealed::Protocol>::Extra;

/// An extension of requests that do not wait for a free connection: at the maximum they get one more, which is closed
/// after them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExceedsMaximum;

/// One server.
pub(super) struct Server<P: Protocol> {
    pub(super) address: Address,
    pub(super) protocol: P,
    connector: Connector,
    config: PoolConfig,
    pool: Pool<Connection<P>>,
    /// `None` if the number of connections has no bound.
    capacity: Option<Arc<Capacity>>,
}

impl<P: Protocol> Server<P> {
    pub(super) fn new(
        address: Address,
        connector: Connector,
        protocol: P,
        config: PoolConfig,
    ) -> Arc<Self> {
        let capacity = config
            .max_connections
            .map(|max| Capacity::new(max, config.max_queued, config.queue_timeout));
        let (limit, pool) = (config.idle_limit.clone(), Pool::new(config.idle_limit.clone()));
        let server = Arc::new(Self { address, protocol, connector, config, pool, capacity });
        let weak: Weak<dyn Evict> = Arc::<Self>::downgrade(&server);
        limit.add_pool(weak);
        server
    }

    /// Returns the options of the connections.
    #[cfg_attr(not(feature = "h2"), allow(dead_code, reason = "for shared connections"))]
    pub(super) fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Returns the connector of the pool.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Sends a request on an idle connection, or on a new one.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        extra: Extra<P>,
    ) -> ResponseFuture<P> {
        ResponseFuture::new(self.clone(), request, extra)
    }

    /// Connects once. The error names the server, and its source is the cause.
    pub(super) async fn check(&self, connector: &Connector) -> io::Result<()> {
        let timeout = self.config.connect_timeout;
        let error = match tokio::time::timeout(timeout, connector.connect()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        Err(io::Error::other(Unreachable::new(self.address.clone(), error)))
    }

    /// Returns how many requests wait for a connection, in all runtimes.
    pub(super) fn queued(&self) -> usize {
        self.capacity.as_ref().map_or(0, |capacity| capacity.waiting())
    }

    /// Returns whether another exchange may begin on the connection.
    fn may_reuse(&self, connection: &Connection<P>, now: Instant) -> bool {
        connection.exchanges() < self.config.max_requests
            && now.saturating_duration_since(connection.opened()) < self.config.max_age
    }

    /// Returns the current number of idle connections, in all runtimes.
    pub(super) fn idle_connections(&self) -> usize {
        self.pool.len()
    }
}

impl<P: Protocol> Evict for Server<P> {
    fn oldest(&self) -> Option<Instant> {
        self.pool.oldest()
    }

    fn evict_oldest(&self) -> bool {
        self.pool.evict_oldest()
    }
}

/// Converts the error of an exchange, with the request if it was returned. `is_reused` means that the connection was
/// idle before.
#[cold]
fn attempt_error<P: Protocol>(error: ExchangeError<P::Core>, is_reused: bool) -> AttemptError {
    let ExchangeError { cause, delivery, request, awaits_body } = error;
    // Nothing was sent, or the client has not sent all of the request.
    let is_excused =
        matches!(cause, Cause::Deadline) && (delivery == Delivery::NotSent || awaits_body);
    let kind = match &cause {
        // The kernel has failed the connection, since the server's host has vanished. If nothing was sent, the connection
        // had failed while it was idle, and the server may be back.
        Cause::Io(error) if delivery != Delivery::NotSent && is_host_lost(error) => {
            AttemptErrorKind::ConnectionLost
        }
        // RFC 9112 section 9.3.1: a server may close an idle connection while a request is being sent. After the
        // first byte of a response it was not idle.
        Cause::Io(_) | Cause::Closed if is_reused && delivery != Delivery::Answered => {
            AttemptErrorKind::StaleConnection
        }
        Cause::Io(_) | Cause::Closed => AttemptErrorKind::ConnectionLost,
        Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
        Cause::Fault(fault) => P::classify_fault(fault),
        Cause::Misuse(_) | Cause::Body(_) => AttemptErrorKind::Request,
    };
    let mut error = AttemptError::new(kind, delivery, cause.into_error());
    if is_excused {
        error = error.excuse_endpoint();
    }
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

/// Returns whether a connection failed since its peer answers nothing, not even TCP (tcp(7)).
fn is_host_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
}
