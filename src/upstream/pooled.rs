//! A server at an address with idle connections to it, whatever protocol it speaks.

mod config;
mod connect;
mod exchange;
mod pool;
mod reaper;

use std::{error::Error as StdError, io, sync::Arc};

use http::Request;

use self::pool::Pool;
use super::{
    error::{AttemptError, AttemptErrorKind},
    history::History,
};
use crate::{
    body::Body,
    conn::client::{self, Cause, ExchangeError, sealed},
    net::{Address, Stream},
};

pub use config::{CONNECT_TIMEOUT, IDLE_TIMEOUT, KEEP_IDLE, PoolConfig};
pub(super) use exchange::ResponseFuture;

/// The protocol of a server, and its options.
pub(super) trait Protocol: Send + Sync + Sized + 'static {
    /// The core of a connection.
    type Core: client::Protocol;

    /// Makes a connection of a stream.
    fn connection(&self, stream: Stream) -> Connection<Self>;

    /// Returns what failed in an attempt whose response violates the protocol.
    fn classify_fault(fault: &Fault<Self>) -> AttemptErrorKind;
}

type Connection<P> = client::Connection<<P as Protocol>::Core, Stream>;
type Fault<P> = <<P as Protocol>::Core as sealed::Protocol>::Fault;
type Extra<P> = <<P as Protocol>::Core as sealed::Protocol>::Extra;

/// One server.
pub(super) struct Server<P: Protocol> {
    pub(super) address: Address,
    pub(super) protocol: P,
    config: PoolConfig,
    pool: Pool<Connection<P>>,
}

impl<P: Protocol> Server<P> {
    pub(super) fn new(address: Address, protocol: P, config: PoolConfig) -> Arc<Self> {
        Arc::new(Self { address, protocol, config, pool: Pool::default() })
    }

    /// Sends a request over an idle connection, or a new one.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        extra: Extra<P>,
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

/// The error of an exchange that failed, on a connection that was idle before or not, with the request if
/// it was given back.
#[cold]
fn attempt_error<P: Protocol>(error: ExchangeError<P::Core>, is_reused: bool) -> AttemptError {
    let ExchangeError { cause, delivery, request, has_answer, .. } = error;
    let kind = match &cause {
        // RFC 9112 section 9.3.1: a server may close an idle connection while a request is on its
        // way. One that has begun to answer was not idle any more.
        Cause::Io(_) | Cause::Closed if is_reused && !has_answer => {
            AttemptErrorKind::StaleConnection
        }
        Cause::Io(_) | Cause::Closed => AttemptErrorKind::ConnectionLost,
        Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
        Cause::Fault(fault) => P::classify_fault(fault),
        Cause::Misuse(_) | Cause::Body(_) => AttemptErrorKind::Request,
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
