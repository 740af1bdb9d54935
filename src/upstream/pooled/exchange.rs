//! One request: an idle connection or a new one, then the exchange on it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use http::{Request, Response};
use tokio::runtime::{Handle, Id};

use super::{Shared, connect::connect, reaper::Reaper};
use crate::{
    body::Body,
    conn::h1::client::{Cause, Checkin, Connection, Exchange, ExchangeError},
    net::{Stream, clock},
    peer::Deadline,
    upstream::{
        error::{AttemptError, AttemptErrorKind},
        history::History,
    },
};

/// The future of [`Remote`](super::Remote).
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub struct ResponseFuture(State);

enum State {
    Begin(Option<Pending>),
    Connecting { future: ConnectFuture, pending: Option<Pending> },
    Exchanging { exchange: Exchange<Stream, ReturnToPool>, is_reused: bool },
}

/// A request without a connection. It is `None` once it has one.
struct Pending {
    shared: Arc<Shared>,
    request: Request<Body>,
}

/// Boxed, since most requests find an idle connection.
type ConnectFuture = Pin<Box<dyn Future<Output = Result<Connection<Stream>, AttemptError>> + Send>>;

impl ResponseFuture {
    pub(super) fn new(shared: Arc<Shared>, request: Request<Body>) -> Self {
        Self(State::Begin(Some(Pending { shared, request })))
    }
}

impl Pending {
    /// Exchanges on an idle connection, if there is one that is still open; else connects.
    fn begin(self, cx: &mut Context<'_>) -> State {
        let Self { shared, request } = &self;
        if !History::needs_new_connection(request) {
            let runtime = Handle::current().id();
            let timeout = shared.options.idle_timeout;
            while let Some(mut idle) = shared.pool.checkout(runtime, clock::now(), timeout) {
                if idle.poll_usable(cx) {
                    return self.exchange(idle, runtime, true);
                }
            }
        }
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let future = Box::pin(connect(shared.clone(), deadline));
        State::Connecting { future, pending: Some(self) }
    }

    fn exchange(self, connection: Connection<Stream>, runtime: Id, is_reused: bool) -> State {
        let checkin = ReturnToPool { shared: self.shared, runtime };
        State::Exchanging { exchange: connection.exchange(self.request, checkin), is_reused }
    }
}

const ENDED: &str = "not polled again after it has ended";

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut self.0;
        loop {
            *state = match state {
                State::Exchanging { exchange, is_reused } => {
                    let result = ready!(Pin::new(exchange).poll(cx));
                    return Poll::Ready(result.map_err(|error| failed(error, *is_reused)));
                }
                State::Begin(pending) => pending.take().expect(ENDED).begin(cx),
                State::Connecting { future, pending } => {
                    let result = ready!(future.as_mut().poll(cx));
                    let pending = pending.take().expect(ENDED);
                    match result {
                        Ok(connection) => {
                            pending.exchange(connection, Handle::current().id(), false)
                        }
                        Err(error) => return Poll::Ready(Err(error.with_request(pending.request))),
                    }
                }
            };
        }
    }
}

/// The attempt's error for that of the exchange.
#[cold]
fn failed(error: ExchangeError, is_reused: bool) -> AttemptError {
    let ExchangeError { cause, delivery, request, has_answer } = error;
    let kind = match cause {
        // RFC 9112 section 9.3.1: a server may close an idle connection while a request is on its way.
        // One that has begun to answer was not idle any more.
        Cause::Io(_) | Cause::Closed if is_reused && !has_answer => {
            AttemptErrorKind::StaleConnection
        }
        Cause::Io(_) | Cause::Closed => AttemptErrorKind::ConnectionLost,
        Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
        Cause::Fault(_) => AttemptErrorKind::Protocol,
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

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.0 {
            State::Begin { .. } => "begin",
            State::Connecting { .. } => "connecting",
            State::Exchanging { .. } => "exchanging",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}

/// Puts a connection back into the pool, if its exchange ends in the runtime that made it.
struct ReturnToPool {
    shared: Arc<Shared>,
    runtime: Id,
}

impl Checkin<Stream> for ReturnToPool {
    fn checkin(self, connection: Connection<Stream>, now: Instant) {
        let Self { shared, runtime } = self;
        // A body may be read to its end in another runtime.
        let Ok(here) = Handle::try_current() else { return };
        if here.id() != runtime {
            return;
        }
        let keep = if shared.options.idle_timeout.is_zero() { 0 } else { shared.options.keep_idle };
        if shared.pool.checkin(runtime, connection, now, keep) {
            here.spawn(Reaper::new(&shared, runtime).run());
        }
    }
}
