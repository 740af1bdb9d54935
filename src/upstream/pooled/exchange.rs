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

use super::{Connection, Extra, Protocol, Server, attempt_error, connect::connect, reaper::Reaper};
use crate::{
    body::Body,
    conn::{Checkin, client},
    net::{Stream, clock},
    peer::Deadline,
    upstream::{error::AttemptError, history::History},
};

/// The future of [`Server::send`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub(in crate::upstream) struct ResponseFuture<P: Protocol>(State<P>);

enum State<P: Protocol> {
    Begin(Option<Pending<P>>),
    Connecting { future: ConnectFuture<P>, pending: Option<Pending<P>> },
    Exchanging { exchange: Exchange<P>, is_reused: bool },
}

type Exchange<P> = client::Exchange<<P as Protocol>::Core, Stream, ReturnToPool<P>>;

/// A request without a connection. It is `None` once it has one.
struct Pending<P: Protocol> {
    server: Arc<Server<P>>,
    request: Request<Body>,
    extra: Extra<P>,
}

/// Boxed, since most requests find an idle connection.
type ConnectFuture<P> = Pin<Box<dyn Future<Output = Result<Connection<P>, AttemptError>> + Send>>;

impl<P: Protocol> ResponseFuture<P> {
    pub(super) fn new(server: Arc<Server<P>>, request: Request<Body>, extra: Extra<P>) -> Self {
        Self(State::Begin(Some(Pending { server, request, extra })))
    }
}

impl<P: Protocol> Pending<P> {
    /// Exchanges on an idle connection, if there is one that is still open; else connects.
    fn begin(self, cx: &mut Context<'_>) -> State<P> {
        let Self { server, request, .. } = &self;
        if !History::needs_new_connection(request) {
            let runtime = Handle::current().id();
            let timeout = server.config.idle_timeout;
            while let Some(mut idle) = server.pool.checkout(runtime, clock::now(), timeout) {
                if idle.poll_usable(cx) {
                    return self.exchange(idle, runtime, true);
                }
            }
        }
        let deadline = request.extensions().get::<Deadline>().map(|deadline| deadline.0);
        let future = Box::pin(connect(server.clone(), deadline));
        State::Connecting { future, pending: Some(self) }
    }

    fn exchange(self, connection: Connection<P>, runtime: Id, is_reused: bool) -> State<P> {
        let checkin = ReturnToPool { server: self.server, runtime };
        let exchange = connection.exchange_with(self.request, self.extra, checkin);
        State::Exchanging { exchange, is_reused }
    }
}

const ENDED: &str = "not polled again after it has ended";

impl<P: Protocol> Future for ResponseFuture<P> {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let state = &mut self.0;
        loop {
            *state = match state {
                State::Exchanging { exchange, is_reused } => {
                    let result = ready!(Pin::new(exchange).poll(cx));
                    let is_reused = *is_reused;
                    return Poll::Ready(result.map_err(|e| attempt_error::<P>(e, is_reused)));
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

impl<P: Protocol> Unpin for ResponseFuture<P> {}

impl<P: Protocol> fmt::Debug for ResponseFuture<P> {
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
pub(super) struct ReturnToPool<P: Protocol> {
    server: Arc<Server<P>>,
    runtime: Id,
}

impl<P: Protocol> Checkin<Connection<P>> for ReturnToPool<P> {
    fn checkin(self, connection: Connection<P>, now: Instant) {
        let Self { server, runtime } = self;
        // A body may be read to its end in another runtime.
        let Ok(here) = Handle::try_current() else { return };
        if here.id() != runtime {
            return;
        }
        let keep = if server.config.idle_timeout.is_zero() { 0 } else { server.config.keep_idle };
        if server.pool.checkin(runtime, connection, now, keep) {
            here.spawn(Reaper::new(&server, runtime).run());
        }
    }
}
