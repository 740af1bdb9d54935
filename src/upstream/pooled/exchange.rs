//! One request: acquires a slot, then checks out an idle connection or opens one, then runs the exchange.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Response, header::UPGRADE, request};
use tokio::runtime::{Handle, Id};

use super::{
    Connection, ExceedsMaximum, Extra, Protocol, Server, attempt_error,
    capacity::{PoolExhausted, Slot},
    connect::{connect, too_late},
    pool::{CheckedIn, Idle},
    reaper::Reaper,
};
use crate::{
    body::Body,
    conn::{Checkin, Delivery, client},
    error::{Error, Kind},
    net::{Address, clock},
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
    /// Dropped before the slot in the exchange, which bounds connections.
    state: State<P>,
    exchange: Exchange<P>,
}

enum State<P: Protocol> {
    Begin,
    Waiting(SlotFuture),
    Connecting(ConnectFuture<P>),
    Exchanging { is_reused: bool },
}

/// The next step of a request.
enum Next<P: Protocol> {
    Wait(SlotFuture),
    Connect(ConnectFuture<P>),
    Exchange { is_reused: bool },
}

type Exchange<P> = client::Exchange<<P as Protocol>::Core, ServerStream, ReturnToPool<P>>;

/// Boxed, since most requests use an idle connection.
type ConnectFuture<P> = Pin<Box<dyn Future<Output = Result<Connection<P>, AttemptError>> + Send>>;

type SlotFuture = Pin<Box<dyn Future<Output = Result<Option<Slot>, PoolExhausted>> + Send>>;

impl<P: Protocol> ResponseFuture<P> {
    pub(super) fn new(server: Arc<Server<P>>, request: Request<Body>, extra: Extra<P>) -> Self {
        let checkin = ReturnToPool { server, runtime: None, slot: None };
        Self { state: State::Begin, exchange: Exchange::unconnected(request, extra, checkin) }
    }
}

/// Acquires a slot, if the server's connections are limited, and continues; or waits for one.
fn begin<P: Protocol>(exchange: &mut Exchange<P>, now: Instant, cx: &mut Context<'_>) -> Next<P> {
    let deadline = exchange.deadline();
    let (head, ReturnToPool { server, slot, .. }) = exchange.unsent().expect(ENDED);
    if let Some(capacity) = &server.capacity {
        match capacity.try_acquire() {
            Some(acquired) => *slot = Some(Box::new(acquired)),
            // Without a runtime, the connection is not checked in.
            None if head.extensions.get::<ExceedsMaximum>().is_some() => {
                return Next::Connect(Box::pin(connect(server.clone(), deadline)));
            }
            None => return Next::Wait(Box::pin(capacity.clone().acquire(deadline))),
        }
    }
    checkout(exchange, now, cx)
}

/// Checks out an idle connection that is still open, or otherwise connects.
fn checkout<P: Protocol>(
    exchange: &mut Exchange<P>,
    now: Instant,
    cx: &mut Context<'_>,
) -> Next<P> {
    let deadline = exchange.deadline();
    let (_, ReturnToPool { runtime, .. }) = exchange.unsent().expect(ENDED);
    *runtime = Some(Handle::current().id());
    if try_checkout(exchange, now, cx) {
        return Next::Exchange { is_reused: true };
    }
    let (_, ReturnToPool { server, slot, .. }) = exchange.unsent().expect(ENDED);
    if let Some(slot) = slot {
        slot.open = Some(slot.open_one(|| server.pool.evict_oldest()));
    }
    Next::Connect(Box::pin(connect(server.clone(), deadline)))
}

/// Checks out an idle connection of the runtime that is still open. Returns whether there is one. It takes the place of
/// a connection that the request has failed to open.
fn try_checkout<P: Protocol>(
    exchange: &mut Exchange<P>,
    now: Instant,
    cx: &mut Context<'_>,
) -> bool {
    let can_replay = exchange.can_replay();
    let (head, ReturnToPool { server, runtime, slot }) = exchange.unsent().expect(ENDED);
    // Without a runtime, the request gets a connection beyond the maximum.
    let Some(here) = *runtime else { return false };
    if History::needs_new_connection(&head.extensions) {
        return false;
    }
    let timeout = server.config.idle_timeout;
    while let Some(mut idle) = server.pool.checkout(here, now, timeout) {
        let idle_for = now.saturating_duration_since(idle.since);
        if idle_for >= server.config.non_idempotent_idle_timeout
            && matches!(server.address, Address::Tcp(_))
            && !(can_replay && may_repeat(head))
        {
            return false; // it is closed, and the others are older
        }
        let is_checked = idle_for >= CHECK_AFTER || P::WORKS_AFTER_RESPONSE;
        // In this order: a server that has read all writes no more.
        if (!P::WORKS_AFTER_RESPONSE || idle.connection.is_all_read())
            && !(is_checked && idle.connection.has_input())
            && server.may_reuse(&idle.connection, now)
            && idle.connection.poll_usable(cx)
        {
            if let Some(slot) = slot {
                slot.open = idle.open;
            }
            exchange.connect_usable(idle.connection);
            return true;
        }
    }
    false
}

/// Returns whether a request that may have been sent may be sent again (RFC 9110 section 9.2.2).
fn may_repeat(head: &request::Parts) -> bool {
    head.method.is_idempotent() && !head.headers.contains_key(UPGRADE)
}

/// Creates the error of a request that got no slot.
fn no_slot<P: Protocol>(error: Option<PoolExhausted>) -> AttemptError {
    match error {
        None => too_late::<P>().excuse_endpoint(),
        Some(exhausted) => {
            let source = Error::new(Kind::Overloaded, exhausted);
            AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, source)
        }
    }
}

/// Returns the error of a request that got no connection, with the request.
fn unsent<P: Protocol>(exchange: &mut Exchange<P>, error: AttemptError) -> AttemptError {
    error.with_request(exchange.take_request().expect(ENDED))
}

const ENDED: &str = "not polled again after it has ended";

impl<P: Protocol> Future for ResponseFuture<P> {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { state, exchange } = &mut *self;
        let now = clock::now();
        loop {
            let next = match state {
                State::Exchanging { is_reused } => {
                    let result = ready!(exchange.poll_at(now, cx));
                    let is_reused = *is_reused;
                    return Poll::Ready(result.map_err(|e| attempt_error::<P>(e, is_reused)));
                }
                State::Begin => begin(exchange, now, cx),
                State::Waiting(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(Some(acquired)) => {
                        let (_, ReturnToPool { slot, .. }) = exchange.unsent().expect(ENDED);
                        *slot = Some(Box::new(acquired));
                        checkout(exchange, now, cx)
                    }
                    Ok(None) => return Poll::Ready(Err(unsent(exchange, no_slot::<P>(None)))),
                    Err(error) => {
                        return Poll::Ready(Err(unsent(exchange, no_slot::<P>(Some(error)))));
                    }
                },
                State::Connecting(future) => match ready!(future.as_mut().poll(cx)) {
                    Ok(connection) => {
                        exchange.connect(connection);
                        Next::Exchange { is_reused: false }
                    }
                    // Another request may have returned its connection meanwhile.
                    Err(error)
                        if error.kind() != AttemptErrorKind::Timeout
                            && try_checkout(exchange, now, cx) =>
                    {
                        Next::Exchange { is_reused: true }
                    }
                    Err(error) => return Poll::Ready(Err(unsent(exchange, error))),
                },
            };
            *state = match next {
                Next::Wait(slot) => State::Waiting(slot),
                Next::Connect(connect) => State::Connecting(connect),
                Next::Exchange { is_reused } => State::Exchanging { is_reused },
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
    /// `None` before it is connected.
    runtime: Option<Id>,
    /// Boxed, since most servers do not limit connections.
    slot: Option<Box<Slot>>,
}

impl<P: Protocol> Checkin<Connection<P>> for ReturnToPool<P> {
    fn checkin(self, connection: Connection<P>, now: Instant) {
        let Self { server, runtime, mut slot } = self;
        // The body may have been read in another runtime.
        let (Ok(here), Some(runtime)) = (Handle::try_current(), runtime) else { return };
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
