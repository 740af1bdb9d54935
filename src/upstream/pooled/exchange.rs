//! One request: acquires a slot, then checks out an idle connection or opens one, then runs the exchange.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::runtime::{Handle, Id};

use super::{
    Connection, Extra, Protocol, Server, attempt_error,
    capacity::{PoolExhausted, Slot},
    connect::{connect, too_late},
    pool::{CheckedIn, Idle},
    reaper::Reaper,
};
use crate::{
    body::Body,
    conn::{Checkin, Delivery, client},
    error::{Error, Kind},
    net::clock,
    peer::Deadline,
    upstream::{
        connector::ServerStream,
        error::{AttemptError, AttemptErrorKind},
        history::History,
    },
};

/// Idle time after which a connection is checked by a system call before it is used: 1 s. Servers wait longer before
/// they close, and the runtime has seen most closes by then.
const CHECK_AFTER: Duration = Duration::from_secs(1);

/// The future of [`Server::send`].
///
/// # Panics
/// When it is polled outside of a Tokio runtime.
pub(in crate::upstream) struct ResponseFuture<P: Protocol> {
    /// Dropped before the slot, which bounds connections.
    state: State<P>,
    /// `None` once the exchange has begun. Beside the state, so that the request is not moved by each change of it.
    pending: Option<Pending<P>>,
}

#[expect(clippy::large_enum_variant, reason = "most requests begin their exchange at once")]
enum State<P: Protocol> {
    Begin,
    Waiting(SlotFuture),
    Connecting(ConnectFuture<P>),
    Exchanging { exchange: Exchange<P>, is_reused: bool },
}

/// What a request does next.
enum Next<P: Protocol> {
    Wait(SlotFuture),
    Connect(ConnectFuture<P>),
    Exchange { connection: Connection<P>, runtime: Id, is_reused: bool },
}

type Exchange<P> = client::Exchange<<P as Protocol>::Core, ServerStream, ReturnToPool<P>>;

/// A request that has no connection yet.
struct Pending<P: Protocol> {
    server: Arc<Server<P>>,
    request: Request<Body>,
    extra: Extra<P>,
    /// Boxed, since most servers do not limit connections.
    slot: Option<Box<Slot>>,
}

/// Boxed, since most requests use an idle connection.
type ConnectFuture<P> = Pin<Box<dyn Future<Output = Result<Connection<P>, AttemptError>> + Send>>;

type SlotFuture = Pin<Box<dyn Future<Output = Result<Option<Slot>, PoolExhausted>> + Send>>;

impl<P: Protocol> ResponseFuture<P> {
    pub(super) fn new(server: Arc<Server<P>>, request: Request<Body>, extra: Extra<P>) -> Self {
        let pending = Some(Pending { server, request, extra, slot: None });
        Self { pending, state: State::Begin }
    }
}

impl<P: Protocol> Pending<P> {
    /// Acquires a slot, if the server's connections are limited, and continues; or waits for one.
    fn begin(&mut self, now: Instant, cx: &mut Context<'_>) -> Next<P> {
        if let Some(capacity) = &self.server.capacity {
            match capacity.try_acquire() {
                Some(slot) => self.slot = Some(Box::new(slot)),
                None => return Next::Wait(Box::pin(capacity.clone().acquire(self.deadline()))),
            }
        }
        self.checkout(now, cx)
    }

    /// Checks out an idle connection that is still open, or otherwise connects.
    fn checkout(&mut self, now: Instant, cx: &mut Context<'_>) -> Next<P> {
        let Self { server, request, slot, .. } = self;
        if !History::needs_new_connection(request) {
            let runtime = Handle::current().id();
            let timeout = server.config.idle_timeout;
            while let Some(mut idle) = server.pool.checkout(runtime, now, timeout) {
                let is_old = now.saturating_duration_since(idle.since) >= CHECK_AFTER;
                if !(is_old && idle.connection.has_input())
                    && server.may_reuse(&idle.connection, now)
                    && idle.connection.poll_usable(cx)
                {
                    if let Some(slot) = slot {
                        slot.open = idle.open;
                    }
                    return Next::Exchange {
                        connection: idle.connection,
                        runtime,
                        is_reused: true,
                    };
                }
            }
        }
        if let Some(slot) = slot {
            slot.open = Some(slot.open_one(|| server.pool.evict_oldest()));
        }
        Next::Connect(Box::pin(connect(server.clone(), self.deadline())))
    }

    fn deadline(&self) -> Option<Instant> {
        self.request.extensions().get::<Deadline>().map(|deadline| deadline.0)
    }

    fn exchange(self, connection: Connection<P>, runtime: Id) -> Exchange<P> {
        let checkin = ReturnToPool { server: self.server, runtime, slot: self.slot };
        connection.exchange_with(self.request, self.extra, checkin)
    }

    /// Creates the error of a request that got no slot.
    fn no_slot(self, error: Option<PoolExhausted>) -> AttemptError {
        let error = match error {
            None => too_late::<P>(),
            Some(exhausted) => {
                let source = Error::new(Kind::Overloaded, exhausted);
                AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, source)
            }
        };
        error.with_request(self.request)
    }
}

const ENDED: &str = "not polled again after it has ended";

impl<P: Protocol> Future for ResponseFuture<P> {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { pending, state } = &mut *self;
        let now = clock::now();
        loop {
            let next = match state {
                State::Exchanging { exchange, is_reused } => {
                    let result = ready!(exchange.poll_at(now, cx));
                    let is_reused = *is_reused;
                    return Poll::Ready(result.map_err(|e| attempt_error::<P>(e, is_reused)));
                }
                State::Begin => pending.as_mut().expect(ENDED).begin(now, cx),
                State::Waiting(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(Some(slot)) => {
                        let pending = pending.as_mut().expect(ENDED);
                        pending.slot = Some(Box::new(slot));
                        pending.checkout(now, cx)
                    }
                    Ok(None) => {
                        return Poll::Ready(Err(pending.take().expect(ENDED).no_slot(None)));
                    }
                    Err(error) => {
                        return Poll::Ready(Err(pending.take().expect(ENDED).no_slot(Some(error))));
                    }
                },
                State::Connecting(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(connection) => {
                        let runtime = Handle::current().id();
                        Next::Exchange { connection, runtime, is_reused: false }
                    }
                    Err(error) => {
                        let request = pending.take().expect(ENDED).request;
                        return Poll::Ready(Err(error.with_request(request)));
                    }
                },
            };
            *state = match next {
                Next::Wait(slot) => State::Waiting(slot),
                Next::Connect(connect) => State::Connecting(connect),
                Next::Exchange { connection, runtime, is_reused } => {
                    let exchange = pending.take().expect(ENDED).exchange(connection, runtime);
                    State::Exchanging { exchange, is_reused }
                }
            };
        }
    }
}

impl<P: Protocol> Unpin for ResponseFuture<P> {}

impl<P: Protocol> fmt::Debug for ResponseFuture<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Begin => "begin",
            State::Waiting(_) => "waiting",
            State::Connecting(_) => "connecting",
            State::Exchanging { .. } => "exchanging",
        };
        f.debug_struct("ResponseFuture").field("state", &state).finish_non_exhaustive()
    }
}

/// Checks a connection in to the pool, if its exchange ends in the runtime that opened it.
pub(super) struct ReturnToPool<P: Protocol> {
    server: Arc<Server<P>>,
    runtime: Id,
    slot: Option<Box<Slot>>,
}

impl<P: Protocol> Checkin<Connection<P>> for ReturnToPool<P> {
    fn checkin(self, connection: Connection<P>, now: Instant) {
        let Self { server, runtime, mut slot } = self;
        // The body may have been read in another runtime.
        let Ok(here) = Handle::try_current() else { return };
        if here.id() != runtime || !server.may_reuse(&connection, now) {
            drop(connection); // before its slot is released
            return;
        }
        let keep = if server.config.idle_timeout.is_zero() { 0 } else { server.config.keep_idle };
        let open = slot.as_mut().and_then(|slot| slot.open.take());
        let idle = Idle { connection, since: now, open };
        let CheckedIn { is_first, is_over_limit } = server.pool.checkin(runtime, idle, keep);
        if is_over_limit {
            server.config.idle_limit.evict(&*server);
        }
        if is_first {
            here.spawn(Reaper::new(&server, runtime).run());
        }
    }
}
