//! A server at an address with idle connections to it, whatever protocol it speaks.

mod connect;
mod exchange;
mod pool;
mod reaper;

use std::{error::Error as StdError, future::Future, io, sync::Arc, task::Context, time::Duration};

use http::{Request, Response};

use self::pool::Pool;
use super::{
    error::{AttemptError, AttemptErrorKind},
    history::History,
};
use crate::{
    body::Body,
    conn::Delivery,
    error::BoxError,
    net::{Address, Stream},
};

pub(super) use exchange::{ResponseFuture, ReturnToPool};

/// Idle connections to one server that a runtime keeps, unless set otherwise: as many as it has in use
/// under heavy load. Fewer would be closed and made again all the time; what is more than the load
/// needs is closed after [`IDLE_TIMEOUT`].
pub const KEEP_IDLE: usize = 512;

/// How long a connection may be idle, unless set otherwise: less than servers' own limits (nginx:
/// 75 s), so that a request seldom meets a connection that is being closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long connecting may take, unless set otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How requests are exchanged with a server.
pub(super) trait Protocol: Send + Sync + Sized + 'static {
    /// A connection between exchanges.
    type Connection: Send + 'static;
    /// What is sent beside the request.
    type Extra: Send + Unpin;
    /// One exchange.
    type Exchange: Future<Output = Result<Response<Body>, Self::Error>> + Send + Unpin;
    /// Why an exchange failed.
    type Error;

    /// Makes a connection of a stream.
    fn connection(&self, stream: Stream) -> Self::Connection;

    /// Whether an idle connection can serve an exchange now.
    fn poll_usable(connection: &mut Self::Connection, cx: &mut Context<'_>) -> bool;

    /// Begins an exchange.
    fn exchange(
        connection: Self::Connection,
        request: Request<Body>,
        extra: Self::Extra,
        checkin: ReturnToPool<Self>,
    ) -> Self::Exchange;

    /// The attempt's error for that of an exchange, on a connection that was idle before or not.
    fn attempt_error(error: Self::Error, is_reused: bool) -> AttemptError;

    /// The cause of a failure for want of time, before there was a connection.
    fn deadline_passed() -> BoxError;
}

/// Bounds on idle connections and on connecting.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) keep_idle: usize,
    pub(super) idle_timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_idle: KEEP_IDLE, idle_timeout: IDLE_TIMEOUT, connect_timeout: CONNECT_TIMEOUT }
    }
}

/// One server.
pub(super) struct Server<P: Protocol> {
    pub(super) address: Address,
    pub(super) protocol: P,
    options: Options,
    pool: Pool<P::Connection>,
}

impl<P: Protocol> Server<P> {
    pub(super) fn new(address: Address, protocol: P, options: Options) -> Arc<Self> {
        Arc::new(Self { address, protocol, options, pool: Pool::default() })
    }

    /// Sends a request over an idle connection, or a new one.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        extra: P::Extra,
    ) -> ResponseFuture<P> {
        ResponseFuture::new(self.clone(), request, extra)
    }

    /// Connects once; the error names the server and what failed.
    pub(super) async fn check(self: &Arc<Self>) -> io::Result<()> {
        let Err(error) = connect::connect(self.clone(), None).await else { return Ok(()) };
        let mut cause: &dyn StdError = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Err(io::Error::other(format!("cannot connect to {}: {cause}", self.address)))
    }

    /// How many connections are idle now, in all runtimes.
    pub(super) fn idle_connections(&self) -> usize {
        self.pool.len()
    }
}

/// The error of an exchange that failed, with the request if it was given back.
pub(super) fn attempt_error(
    kind: AttemptErrorKind,
    delivery: Delivery,
    source: BoxError,
    request: Option<Box<Request<Body>>>,
) -> AttemptError {
    let error = AttemptError::new(kind, delivery, source);
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
