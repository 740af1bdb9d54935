//! FastCGI over a connection: one exchange at a time with an application, for example php-fpm, polled by
//! the task that waits for the response.

mod exchange;
mod incoming;
mod stderr;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::Request;

use self::stderr::StderrLog;
use super::{
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
    proto::fcgi::{Conn, Event, Fault, Limits, Misuse, Params, Rejection},
};

pub use exchange::Exchange;

/// A connection to an application, between exchanges.
///
/// It has no task of its own: [`exchange`](Self::exchange) is polled by the task that waits for the
/// response, and so is the response's body. When that body has ended and the application leaves the
/// connection open, it is given to [`Checkin`]. A connection whose response was not read to its end is
/// closed.
///
/// The application's STDERR is logged line by line: a `WARN` event "application wrote to
/// stderr" of the target `vestibule::fastcgi`, with the field `stderr` and those of the request.
#[derive(Debug)]
pub struct Connection<I> {
    /// Boxed, since a connection moves with every request.
    state: Box<State<I>>,
}

#[derive(Debug)]
struct State<I> {
    io: I,
    core: Conn,
    input: BytesMut,
    output: Output,
    timer: Timer,
    write_timeout: Duration,
    stderr: StderrLog,
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The connection broke.
    #[error("connection to the application failed")]
    Io(#[from] io::Error),
    /// The application closed the connection before its response was complete.
    #[error("application closed the connection before it answered")]
    Closed,
    /// The application violated the protocol, or refused the request.
    #[error("application sent no valid response")]
    Fault(#[from] Fault),
    /// The application exceeded a timeout in reading or in writing.
    #[error("application made no progress in time")]
    Timeout,
    /// The request's [`Deadline`](crate::peer::Deadline) passed before the application had answered.
    #[error("the deadline passed before the application answered")]
    Deadline,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Misuse(#[from] Misuse),
    /// The length of the request's body is not known, and CGI has no body without `CONTENT_LENGTH`.
    #[error(
        "length of the request's body is unknown: put a RequestBufferLayer before the application"
    )]
    UnknownLength,
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
            Self::Misuse(_) | Self::UnknownLength => Kind::Internal,
            Self::Fault(Fault::Rejected(Rejection::Overloaded)) => Kind::Overloaded,
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
    /// Whether the application may have received a part of the request.
    pub delivery: Delivery,
    /// Whether at least one byte from the application has been read, STDERR included.
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
    /// `head_timeout` of `limits` is the time from the end of the request to the head of the response,
    /// and `body_timeout` bounds each pause in its body and in sending.
    pub fn new(io: I, limits: Arc<Limits>) -> Self {
        let state = State {
            io,
            write_timeout: limits.write_timeout(),
            core: Conn::new(limits, clock::now()),
            input: BytesMut::new(),
            output: Output::default(),
            timer: Timer::default(),
            stderr: StderrLog::default(),
        };
        Self { state: Box::new(state) }
    }

    /// Returns whether the connection can serve an exchange now: `false` after the application has closed
    /// it or has sent unsolicited bytes. Makes no system call unless bytes have arrived.
    pub fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_reusable() {
            return false;
        }
        let State { io, input, .. } = &mut *self.state;
        // Outside of tokio's coop budget: a read without budget is pending too, and says nothing about the
        // connection.
        let is_quiet =
            poll_fn(|cx| Poll::Ready(thread_buffers::poll_read(io, cx, input).is_pending()));
        pin!(tokio::task::unconstrained(is_quiet)).poll(cx) == Poll::Ready(true)
    }

    /// Sends a request and waits for the head of its response. `params` are its variables, see
    /// [`semantics::cgi`](crate::semantics::cgi); of `request` itself only the method and the body are sent.
    ///
    /// A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the head.
    /// The response's body owns the connection until it has ended, and then gives it to `checkin`.
    pub fn exchange<C: Checkin<Self>>(
        self,
        request: Request<Body>,
        params: Params,
        checkin: C,
    ) -> Exchange<I, C> {
        Exchange::new(self, request, params, checkin)
    }

    fn is_reusable(&self) -> bool {
        let State { core, input, output, .. } = &*self.state;
        core.is_idle() && core.keeps_alive() && input.is_empty() && output.is_empty()
    }
}

impl<I: Io> State<I> {
    /// Returns the next event; STDERR is logged instead.
    fn recv(&mut self, now: Instant) -> Result<Option<Event>, Fault> {
        loop {
            match self.core.recv(now, &mut self.input)? {
                Some(Event::Stderr(bytes)) => self.stderr.write(&bytes),
                Some(Event::End { app_status }) => {
                    self.stderr.end_request(self.core.dropped_stderr());
                    return Ok(Some(Event::End { app_status }));
                }
                event => return Ok(event),
            }
        }
    }

    /// Reads into the input buffer; `Ok(0)` is the end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.core.is_reading_body() {
            return thread_buffers::poll_read_body(&mut self.io, cx, &mut self.input, None);
        }
        thread_buffers::poll_read(&mut self.io, cx, &mut self.input)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let before = self.output.written();
        let result = self.output.poll_flush(&mut self.io, cx, now, MinRate::NONE, AfterFlush::Wait);
        if self.output.written() > before {
            // The response's timeout starts when the request is written.
            self.core.resume(now);
        }
        result
    }

    /// Returns whether the application has exceeded its timeout, in reading or in writing, or `until` has
    /// passed.
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
