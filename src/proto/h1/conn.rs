//! `Conn`: the state machine of a connection. Only this module and its children change its state.

mod client;
mod idle;
mod recv;
mod role;
mod send;
mod server;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::HeaderMap;

pub use idle::IdleState;
pub use role::{Client, Role, Server};

use super::{Limits, chunked::Decoder, head::Lines};
use crate::peer::RateMeter;

/// The state machine of one HTTP/1.1 connection, without a socket, task or clock.
///
/// There are four kinds of methods:
/// - *Input*: [`recv`](Self::recv), [`recv_eof`](Self::recv_eof), [`timeout`](Self::timeout) report
///   what arrived from the peer.
/// - *Output*: `send_head`, [`send_data`](Self::send_data), [`send_end`](Self::send_end) send a
///   message. They append bytes to the caller's buffer.
/// - *Requests to the driver*: [`wants_read`](Self::wants_read),
///   [`wants_continue`](Self::wants_continue), [`deadline`](Self::deadline).
/// - *State*: [`is_idle`](Self::is_idle), [`keeps_alive`](Self::keeps_alive) and others.
///
/// `now` must not go backwards. An output method in a wrong state returns [`Misuse`](super::Misuse) and changes
/// nothing; a peer's error is a [`Fault`](super::Fault), after which nothing more is read.
///
/// Each half, reading and writing, goes through the same states:
///
/// ```text
///            head            data*          end
///   Idle ───────────▶ Body ─────────▶ Body ─────▶ Done ──(both Done, keep-alive)──▶ Idle
///     └── eof ▶ Closed   └── fault ▶ Closed           └──(either says close)──▶ Closed
/// ```
///
/// ```
/// use std::{sync::Arc, time::Instant};
/// use bytes::BytesMut;
/// use vestibule::proto::h1::{Conn, Event, Limits, Server};
///
/// let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), Instant::now());
/// let mut input = BytesMut::from("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
/// let Some(Event::Head(head)) = conn.recv(Instant::now(), &mut input)? else { panic!() };
/// assert_eq!(head.uri.path(), "/hello");
/// # Ok::<(), vestibule::proto::h1::Fault>(())
/// ```
#[derive(Debug)]
pub struct Conn<R: Role> {
    reading: Reading,
    /// The lines of the current or last head, kept for their allocation.
    lines: Lines,
    writing: Writing,
    /// Whether another exchange may follow: neither side has sent `close`.
    keep_alive: bool,
    role: R,
    limits: Arc<Limits>,
    /// Start of the phase that [`deadline`](Self::deadline) bounds.
    since: Instant,
    /// Measures the rate at which the body of a request arrives.
    rate_meter: RateMeter,
    /// Time by which that body must be complete.
    body_deadline: Option<Instant>,
}

#[derive(Debug)]
enum Reading {
    /// Nothing of the next message has arrived. With `is_head_due` the head timeout runs already: on a
    /// new connection, and for the response to a client's request.
    Idle {
        is_head_due: bool,
    },
    Head,
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    /// The message is complete; the other half is not.
    Done,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Idle,
    Length(u64),
    Chunked,
    UntilClose,
    Done,
    Closed,
}

/// A part of a message that [`Conn::recv`] returns.
#[derive(Debug)]
pub enum Event<H> {
    /// A complete head.
    Head(H),
    /// A piece of the body, never empty.
    Data(Bytes),
    /// The end of the message, with its trailers if any.
    End(Option<HeaderMap>),
}

impl<R: Role + Default> Conn<R> {
    /// Creates the state of a connection that was opened at `now`.
    pub fn new(limits: Arc<Limits>, now: Instant) -> Self {
        Self {
            reading: Reading::Idle { is_head_due: true },
            lines: Lines::default(),
            writing: Writing::Idle,
            keep_alive: true,
            role: R::default(),
            limits,
            since: now,
            rate_meter: RateMeter::default(),
            body_deadline: None,
        }
    }
}

/// Requests to the driver.
impl<R: Role> Conn<R> {
    /// Returns whether more bytes can be used now. `false` between a complete request and the end of its
    /// response, and once the reading half is closed.
    pub fn wants_read(&self) -> bool {
        !matches!(self.reading, Reading::Done | Reading::Closed)
    }

    /// Returns the time by which the peer must make progress, or `None` while the peer is not awaited.
    ///
    /// The driver calls [`timeout`](Self::timeout) when it has passed.
    pub fn deadline(&self) -> Option<Instant> {
        if R::IS_CLIENT && self.is_writing_body() {
            return None; // the client's own request is not complete, even if the response has begun
        }
        let l = &self.limits;
        let span = match self.reading {
            Reading::Idle { is_head_due: false } => l.idle_timeout,
            Reading::Idle { is_head_due: true } | Reading::Head => l.head_timeout,
            Reading::Length(1..) | Reading::Chunked(_) | Reading::UntilClose => l.body_timeout,
            Reading::Length(0) | Reading::Done | Reading::Closed => return None,
        };
        // A timeout beyond the clock's range is no deadline.
        [self.since.checked_add(span), self.rate_meter.deadline(), self.body_deadline]
            .into_iter()
            .flatten()
            .min()
    }

    /// Restarts the peer's timeouts, after a pause during which the driver did not read.
    pub fn resume(&mut self, now: Instant) {
        self.since = now;
        if self.rate_meter.deadline().is_some() {
            self.rate_meter = RateMeter::start(self.limits.body_rate, now);
        }
    }
}

/// State.
impl<R: Role> Conn<R> {
    /// Returns whether the connection is between exchanges and another may begin.
    pub fn is_idle(&self) -> bool {
        self.is_before_message() && self.writing == Writing::Idle
    }

    /// Returns whether another exchange may follow the current one.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Returns whether some of the body of a received head has not been read yet.
    pub fn is_reading_body(&self) -> bool {
        match self.reading {
            Reading::Length(n) => n > 0,
            Reading::Chunked(_) | Reading::UntilClose => true,
            Reading::Idle { .. } | Reading::Head | Reading::Done | Reading::Closed => false,
        }
    }

    /// Returns the number of body bytes that have not been read yet, or `None` if it is unknown.
    pub fn remaining_body(&self) -> Option<u64> {
        match self.reading {
            Reading::Length(n) => Some(n),
            Reading::Done | Reading::Closed | Reading::Idle { .. } | Reading::Head => Some(0),
            Reading::Chunked(_) | Reading::UntilClose => None,
        }
    }

    /// Returns whether the head of an outgoing message has been sent, but not its end.
    pub fn is_writing_body(&self) -> bool {
        matches!(self.writing, Writing::Length(_) | Writing::Chunked | Writing::UntilClose)
    }

    /// Returns whether the outgoing message ends with the connection, so that a close completes it.
    pub fn is_close_delimited(&self) -> bool {
        self.writing == Writing::UntilClose
    }

    /// Returns whether the outgoing body is complete and only its end has still to be sent: no bytes follow the
    /// head (a length of 0, HEAD, 204, 304), or all have been sent.
    pub fn is_body_written(&self) -> bool {
        self.writing == Writing::Length(0)
    }

    /// Returns whether nothing more will be read or written, except for [an error](Conn::send_error).
    pub fn is_closed(&self) -> bool {
        let written = match self.writing {
            Writing::Closed | Writing::Done => true,
            Writing::Idle => !self.role.is_response_pending(),
            Writing::Length(_) | Writing::Chunked | Writing::UntilClose => false,
        };
        written && matches!(self.reading, Reading::Closed)
    }

    /// Returns whether nothing of the next message has arrived, not counting empty lines before it.
    fn is_before_message(&self) -> bool {
        match &self.reading {
            Reading::Idle { .. } => true,
            Reading::Head => self.lines.is_empty(),
            Reading::Length(_)
            | Reading::Chunked(_)
            | Reading::UntilClose
            | Reading::Done
            | Reading::Closed => false,
        }
    }

    /// Returns whether at least the head of a request was sent and nothing of its final response has arrived.
    fn is_awaiting_response(&self) -> bool {
        R::IS_CLIENT && self.writing != Writing::Idle && self.is_before_message()
    }

    /// Once both halves are done, starts the next exchange or closes the connection.
    fn try_keep_alive(&mut self, now: Instant) {
        if !matches!(self.reading, Reading::Done) || self.writing != Writing::Done {
            return;
        }
        self.since = now;
        if self.keep_alive {
            self.reading = Reading::Idle { is_head_due: false };
            self.writing = Writing::Idle;
        } else {
            self.reading = Reading::Closed;
            self.writing = Writing::Closed;
        }
    }
}
