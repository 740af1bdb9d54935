//! The client's driver: one connection, one exchange at a time, polled by the task that waits for it.

mod exchange;
mod incoming;
mod upload;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::BytesMut;
use http::Request;

use super::super::{
    output::{AfterFlush, Output},
    thread_buffers,
    timer::Timer,
};
use crate::{
    body::Body,
    conn::{Checkin, Delivery},
    error::{BoxError, Error, Kind},
    net::{Io, clock},
    peer::MinRate,
    proto::h1::{self, Conn, Fault, Limits, Misuse},
};

pub use exchange::Exchange;

/// A connection to a server, between exchanges.
///
/// It has no task of its own: [`exchange`](Self::exchange) is polled by the task that waits for
/// the response, and so is the response's body. When that body has ended and the connection can
/// serve another exchange, it is given to [`Checkin`].
#[derive(Debug)]
pub struct Connection<I> {
    /// Boxed, since a connection moves with every request: from a pool into an exchange and its body,
    /// and back.
    state: Box<State<I>>,
}

#[derive(Debug)]
struct State<I> {
    io: I,
    core: Conn<h1::Client>,
    input: BytesMut,
    output: Output,
    timer: Timer,
    write_timeout: std::time::Duration,
}

/// The parts of a [`Connection`], returned by [`Connection::into_parts`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts<I> {
    /// The stream.
    pub io: I,
    /// Bytes that were read from the stream and not used.
    pub read_ahead: BytesMut,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The connection broke.
    #[error("connection to the server failed")]
    Io(#[from] io::Error),
    /// The server closed the connection before its response was complete.
    #[error("server closed the connection before it answered")]
    Closed,
    /// The server violated the protocol.
    #[error("server sent no valid response")]
    Fault(#[from] Fault),
    /// The server exceeded a timeout in reading or in writing.
    #[error("server too slow")]
    Timeout,
    /// The request's [`Deadline`](crate::peer::Deadline) passed before the server had answered.
    #[error("the deadline passed before the server answered")]
    Deadline,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Misuse(#[from] Misuse),
    /// The request's body failed while it was read.
    #[error("request body failed")]
    Body(#[source] BoxError),
}

impl Cause {
    /// Converts to the crate's error, whose kind says whose fault it is. An error of the request's body is
    /// returned unchanged: it belongs to the client's connection.
    pub(crate) fn into_error(self) -> BoxError {
        let kind = match self {
            Self::Body(error) => return error,
            Self::Timeout | Self::Deadline => Kind::Timeout,
            Self::Misuse(_) => Kind::Internal,
            Self::Io(_) | Self::Closed | Self::Fault(_) => Kind::BadGateway,
        };
        Error::new(kind, self).into()
    }
}

/// A failed exchange. Its connection is closed, or checked in if no byte of the request was encoded.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExchangeError {
    /// Why it failed.
    pub cause: Cause,
    /// Whether the server may have received a part of the request.
    pub delivery: Delivery,
    /// Whether at least a byte of a response, interim ones included, has been read.
    pub has_answer: bool,
    /// The original request, if no byte of a response has been read and the request's body can be
    /// [sent again](Body::replay) or was not yet read.
    pub request: Option<Box<Request<Body>>>,
}

impl ExchangeError {
    /// Creates the error of an exchange that failed after the response began.
    fn after_answer(cause: Cause) -> Self {
        Self { cause, delivery: Delivery::MaybeSent, has_answer: true, request: None }
    }
}

impl<I: Io> Connection<I> {
    /// Creates the driver of a new connection.
    ///
    /// Of `limits`, `head_timeout` is the time from the end of the request to the head of the
    /// response, and `body_timeout` bounds each pause in its body and in sending.
    pub fn new(io: I, limits: Arc<Limits>) -> Self {
        let now = clock::now();
        let state = State {
            io,
            write_timeout: limits.body_timeout,
            core: Conn::new(limits, now),
            input: BytesMut::new(),
            output: Output::default(),
            timer: Timer::default(),
        };
        Self { state: Box::new(state) }
    }

    /// Returns whether the connection can serve an exchange now: `false` after the server has closed it or
    /// has sent unsolicited bytes. Makes no system call unless bytes have arrived.
    pub fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        let State { io, core, input, .. } = &mut *self.state;
        if !core.is_idle() || !input.is_empty() {
            return false;
        }
        // Outside of tokio's coop budget: a read without budget is pending too, and says nothing about the
        // connection.
        let is_quiet =
            poll_fn(|cx| Poll::Ready(thread_buffers::poll_read(io, cx, input).is_pending()));
        pin!(tokio::task::unconstrained(is_quiet)).poll(cx) == Poll::Ready(true)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the
    /// head. The response's body owns the connection until it has ended, and then gives it to
    /// `checkin`.
    pub fn exchange<C: Checkin<Self>>(self, request: Request<Body>, checkin: C) -> Exchange<I, C> {
        Exchange::new(self, request, checkin)
    }

    /// Returns the stream, with bytes that were read and not used: after an upgrade, those of the next
    /// protocol.
    pub fn into_parts(self) -> Parts<I> {
        let State { io, input, .. } = *self.state;
        Parts { io, read_ahead: input }
    }

    fn is_reusable(&self) -> bool {
        let State { core, input, output, .. } = &*self.state;
        core.is_idle() && input.is_empty() && output.is_empty()
    }
}

impl<I: Io> State<I> {
    /// Reads into the input buffer; `Ok(0)` is the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.core.is_reading_body() {
            let left = self.core.remaining_body();
            return thread_buffers::poll_read_body(&mut self.io, cx, &mut self.input, left);
        }
        thread_buffers::poll_read(&mut self.io, cx, &mut self.input)
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

    /// Returns whether the server has exceeded its timeout, in reading or in writing, or `until` has passed.
    fn poll_expired(&mut self, cx: &mut Context<'_>, now: Instant, until: Option<Instant>) -> bool {
        let writing = self.output.deadline(self.write_timeout);
        if writing.is_some_and(|d| d <= now) {
            self.output.update_progress(&self.io, now, MinRate::NONE);
        }
        let deadline = if self.output.is_waiting() {
            self.output.deadline(self.write_timeout)
        } else {
            self.core.deadline()
        };
        let deadline = [deadline, until].into_iter().flatten().min();
        self.timer.poll(cx, deadline, now)
    }
}
