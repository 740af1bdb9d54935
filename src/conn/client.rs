//! The client's driver: one connection with one exchange at a time, polled by the task that awaits it.
//!
//! It drives the client side of any [`Protocol`]: [HTTP/1.1](super::h1::client) and [FastCGI](super::fcgi).

mod exchange;
mod incoming;
mod protocol;
mod upload;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::Request;

use super::{
    Checkin, Delivery,
    first_read::FirstRead,
    output::{AfterFlush, Output},
    thread_buffers,
    timer::Timer,
};
use crate::{
    body::Body,
    error::{BoxError, Error, Kind},
    net::{Io, clock},
    peer::MinRate,
};

#[cfg(feature = "h2")]
pub(super) use exchange::CONTINUE_TIMEOUT;
pub use exchange::Exchange;
pub use protocol::Protocol;
pub(crate) use protocol::{NextRead, sealed};

/// A connection to a server, between exchanges.
///
/// It has no task of its own: the task that awaits the response polls the exchange, and then the response's body.
/// When the body has ended and the connection can serve another exchange, it is passed to [`Checkin`]. A connection
/// whose response was not read to its end is closed.
#[derive(Debug)]
pub struct Connection<P, I> {
    /// Boxed, since a connection moves with every request: from a pool into an exchange and its body,
    /// and back.
    state: Box<State<P, I>>,
}

#[derive(Debug)]
struct State<P, I> {
    io: I,
    core: P,
    input: BytesMut,
    output: Output,
    timer: Timer,
    write_timeout: Duration,
    opened: Instant,
    /// Exchanges so far.
    exchanges: u64,
    first_read: FirstRead,
}

/// The parts of a [`Connection`], returned by [`Connection::into_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts<I> {
    /// The stream.
    pub io: I,
    /// Bytes that were read from the stream and not consumed.
    pub read_ahead: BytesMut,
}

/// The cause of a failed exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause<P: Protocol> {
    /// The connection failed.
    #[error("connection to the server failed")]
    Io(#[source] io::Error),
    /// The server closed the connection before its response was complete.
    #[error("server closed the connection before it answered")]
    Closed,
    /// The server violated the protocol, or refused the request in a way that the protocol defines.
    #[error("server sent no valid response")]
    Fault(#[source] P::Fault),
    /// The server exceeded a timeout in reading or in writing.
    #[error("server made no progress in time")]
    Timeout,
    /// The request's [`Deadline`](crate::peer::Deadline) passed before the server had answered.
    #[error("the deadline passed before the server answered")]
    Deadline,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Misuse(#[source] P::Misuse),
    /// The request's body failed while it was read.
    #[error("request body failed")]
    Body(#[source] BoxError),
}

impl<P: Protocol> Cause<P> {
    /// Converts to the crate's error, with its kind. An error of the request's body is returned unchanged, since it
    /// belongs to the client's connection.
    pub(crate) fn into_error(self) -> BoxError {
        let kind = match &self {
            Self::Timeout | Self::Deadline => Kind::Timeout,
            Self::Misuse(_) => Kind::Internal,
            Self::Io(_) | Self::Closed => Kind::BadGateway,
            Self::Fault(fault) => P::fault_kind(fault),
            Self::Body(_) => {
                let Self::Body(error) = self else { unreachable!("matched just above") };
                return error;
            }
        };
        Error::new(kind, self).into()
    }
}

/// A failed exchange. Its connection is closed, or checked in if no byte of the request was encoded.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExchangeError<P: Protocol> {
    /// The cause.
    pub cause: Cause<P>,
    /// The progress of the request. Any byte from the server counts as an answer, including interim responses and
    /// STDERR.
    pub delivery: Delivery,
    /// The original request, if no byte of a response was read and the request's body can be [replayed](Body::replay)
    /// or was not yet read.
    pub request: Option<Box<Request<Body>>>,
    /// Whether the connection waited for a part of the request's body, so that the server had nothing to do.
    pub awaits_body: bool,
}

impl<P: Protocol> ExchangeError<P> {
    /// Creates the error of an exchange that failed after the response began.
    fn after_answer(cause: Cause<P>) -> Self {
        Self { cause, delivery: Delivery::Answered, request: None, awaits_body: false }
    }
}

impl<P: Protocol, I: Io> Connection<P, I> {
    /// Creates the driver of a new connection.
    pub(super) fn with_core(io: I, core: P, write_timeout: Duration) -> Self {
        let state = State {
            io,
            core,
            write_timeout,
            input: BytesMut::new(),
            output: Output::default(),
            timer: Timer::default(),
            opened: clock::now(),
            exchanges: 0,
            first_read: FirstRead::default(),
        };
        Self { state: Box::new(state) }
    }

    /// Returns whether the connection can serve an exchange now: `false` after the server has closed it or has sent
    /// unsolicited bytes. It makes a system call only if bytes have arrived.
    pub fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_reusable() {
            return false;
        }
        let State { io, input, .. } = &mut *self.state;
        // Outside of tokio's coop budget: a read without budget is pending too, which says nothing about the
        // connection.
        let is_quiet =
            poll_fn(|cx| Poll::Ready(thread_buffers::poll_read(io, cx, input).is_pending()));
        pin!(tokio::task::unconstrained(is_quiet)).poll(cx) == Poll::Ready(true)
    }

    /// Returns when the connection was made.
    pub fn opened(&self) -> Instant {
        self.state.opened
    }

    /// Returns the number of exchanges so far.
    pub fn exchanges(&self) -> u64 {
        self.state.exchanges
    }

    /// Returns whether the kernel has received data or the end of the stream. An idle connection for which it has is
    /// not [usable](Self::poll_usable), even if the runtime has not been notified yet.
    pub fn has_input(&self) -> bool {
        self.state.io.has_input()
    }

    /// Returns the state machine of the protocol.
    #[cfg_attr(not(feature = "process"), allow(dead_code, reason = "for php-fpm"))]
    pub(super) fn core_mut(&mut self) -> &mut P {
        &mut self.state.core
    }

    /// Returns whether the server has read all that was sent to it; `false` if that is unknown.
    #[cfg_attr(
        not(any(feature = "process", feature = "upstream")),
        allow(dead_code, reason = "for php-fpm")
    )]
    pub(crate) fn is_all_read(&self) -> bool {
        self.state.io.send_queue_len() == Some(0)
    }

    /// Sends a request, together with `extra` as required by the protocol, and waits for the head of its response.
    ///
    /// A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the head. The response's
    /// body owns the connection until it has ended, and then passes it to `checkin`.
    pub fn exchange_with<C: Checkin<Self>>(
        self,
        request: Request<Body>,
        extra: P::Extra,
        checkin: C,
    ) -> Exchange<P, I, C> {
        let mut exchange = Exchange::unconnected(request, extra, checkin);
        exchange.connect(self);
        exchange
    }

    /// Returns the stream, with bytes that were read and not consumed: those that the server has sent without a request,
    /// and that [`poll_usable`](Self::poll_usable) has found.
    pub fn into_parts(self) -> Parts<I> {
        let State { io, input, .. } = *self.state;
        Parts { io, read_ahead: input }
    }

    fn is_reusable(&self) -> bool {
        let State { core, input, output, .. } = &*self.state;
        core.can_begin() && input.is_empty() && output.is_empty()
    }
}

impl<P: Protocol, I: Io> State<P, I> {
    /// Reads into the input buffer; `Ok(0)` is the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.core.next_read() {
            NextRead::Body(left) => {
                thread_buffers::poll_read_body(&mut self.io, cx, &mut self.input, left)
            }
            NextRead::Head => {
                let max_len = self.first_read.max_len();
                thread_buffers::poll_read_up_to(&mut self.io, cx, &mut self.input, max_len)
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let before = self.output.written();
        let result = self.output.poll_flush(&mut self.io, cx, now, MinRate::NONE, AfterFlush::Wait);
        if self.output.written() > before {
            // The response's timeout starts when the request is written. A server that has responded early
            // may still be reading the request.
            self.core.resume(now);
        }
        result
    }

    /// Returns whether the server has exceeded its timeout, in reading or in writing, or `until` has passed. A server that
    /// has sent a part of its response, last at `last_read`, need not read the request while it sends more.
    fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        mut now: Instant,
        until: Option<Instant>,
        last_read: Option<Instant>,
    ) -> bool {
        let send_deadline = last_read.and_then(|at| at.checked_add(self.write_timeout));
        loop {
            let next_update = self.output.next_update(self.write_timeout);
            let read_deadline = self.output.deadline(self.write_timeout);
            let deadline = if !self.output.is_waiting() {
                self.core.deadline()
            } else if read_deadline.is_some_and(|deadline| deadline <= now)
                && send_deadline > read_deadline
            {
                send_deadline
            } else {
                next_update
            };
            let deadline = [deadline, until].into_iter().flatten().min();
            if !self.timer.poll(cx, deadline, now) {
                return false;
            }
            // This poll may have taken long itself, so its `now` is stale.
            now = clock::now();
            if next_update.is_none_or(|update| update > now)
                || until.is_some_and(|until| until <= now)
            {
                return true;
            }
            self.output.update_progress(&self.io, now, MinRate::NONE);
            let read_deadline = self.output.deadline(self.write_timeout);
            if read_deadline.max(send_deadline).is_none_or(|deadline| deadline <= now) {
                return true;
            }
        }
    }
}
