//! The connection's state machine. This file and those of the two roles below hold all code that
//! changes its state.

mod client;
mod idle;
mod role;
mod server;

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

pub use idle::IdleState;
pub use role::{Client, Role, Server};

use super::{
    Fault, Length, Limits, Misuse,
    chunked::{Decoder, Step},
    encode,
    head::Lines,
};
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
/// `now` must not go backwards. An output method in a wrong state returns [`Misuse`] and changes
/// nothing; a peer's error is a [`Fault`], after which nothing more is read.
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

/// Input.
impl<R: Role> Conn<R> {
    /// Parses the next event from the front of `input` and removes its bytes.
    ///
    /// `input` holds all bytes that have arrived and were not removed. `None` means that more bytes are
    /// needed, or that none are wanted now; [`wants_read`](Self::wants_read) tells which. Call it again
    /// with further bytes appended to those that it left.
    ///
    /// # Errors
    /// Returns the peer's [`Fault`] and closes the reading half.
    pub fn recv(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<Option<Event<R::Head>>, Fault> {
        self.recv_with(now, input, |_| HeaderMap::new())
    }

    /// Does the same as [`recv`](Self::recv), with the map for the fields of a complete head from
    /// `fields`, which is called with their number: a driver that keeps the maps of earlier heads saves
    /// their allocations. The map must be empty.
    ///
    /// ```
    /// # use std::{sync::Arc, time::Instant};
    /// # use bytes::BytesMut;
    /// # use vestibule::proto::h1::{Conn, Event, Limits, Server};
    /// use http::HeaderMap;
    ///
    /// # let now = Instant::now();
    /// # let mut conn = Conn::<Server>::new(Arc::new(Limits::default()), now);
    /// # let mut input = BytesMut::from("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    /// let map = |count: usize| HeaderMap::with_capacity(count.max(100));
    /// let Some(Event::Head(head)) = conn.recv_with(now, &mut input, map)? else { panic!() };
    /// assert!(head.headers.capacity() >= 100 && head.headers["host"] == "a");
    /// # Ok::<(), vestibule::proto::h1::Fault>(())
    /// ```
    ///
    /// # Errors
    /// The same as of [`recv`](Self::recv).
    pub fn recv_with(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        fields: impl Fn(usize) -> HeaderMap,
    ) -> Result<Option<Event<R::Head>>, Fault> {
        let result = self.recv_inner(now, input, fields);
        if result.is_err() {
            self.reading = Reading::Closed;
            self.keep_alive = false;
        }
        result
    }

    fn recv_inner(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        fields: impl Fn(usize) -> HeaderMap,
    ) -> Result<Option<Event<R::Head>>, Fault> {
        match &mut self.reading {
            Reading::Idle { .. } | Reading::Head => self.recv_head(now, input, fields),
            Reading::Length(0) => Ok(Some(self.recv_end(now, None))),
            Reading::Length(_) | Reading::UntilClose if input.is_empty() => Ok(None),
            Reading::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= n as u64;
                self.record_progress(now, n);
                self.role.on_body_data();
                Ok(Some(Event::Data(input.split_to(n).freeze())))
            }
            Reading::UntilClose => {
                self.since = now;
                Ok(Some(Event::Data(input.split().freeze())))
            }
            Reading::Chunked(decoder) => match decoder.step(input, &self.limits)? {
                Step::NeedsInput => Ok(None),
                Step::Data(data) => {
                    self.record_progress(now, data.len());
                    self.role.on_body_data();
                    Ok(Some(Event::Data(data)))
                }
                Step::End(trailers) => Ok(Some(self.recv_end(now, trailers))),
            },
            Reading::Done | Reading::Closed => Ok(None),
        }
    }

    fn recv_head(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        fields: impl Fn(usize) -> HeaderMap,
    ) -> Result<Option<Event<R::Head>>, Fault> {
        let section = R::section(&self.limits);
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            if R::IS_CLIENT && self.writing == Writing::Idle {
                return Err(Fault::Unsolicited);
            }
            if let Reading::Idle { is_head_due } = self.reading {
                // A later head is timed from its first byte, the first one from the connection's start.
                if !is_head_due {
                    self.since = now;
                }
                self.reading = Reading::Head;
                self.lines.clear();
            }
            let Some(len) = self.lines.read(input, section, &self.limits)? else {
                return Ok(None);
            };
            let head = input.split_to(len).freeze();
            let mut parts = R::empty_head(fields(self.lines.fields.len()));
            let meta = self.role.parse(&mut parts, &head, &self.lines, &self.limits)?;
            if !meta.is_final {
                self.lines.clear();
                self.role.on_interim(parts);
                continue;
            }
            self.keep_alive &= meta.keep_alive;
            self.since = now;
            if !R::IS_CLIENT && meta.length != Length::Known(0) {
                self.rate_meter = RateMeter::start(self.limits.body_rate, now);
                self.body_deadline = now.checked_add(self.limits.body_total_timeout);
            }
            self.reading = match meta.length {
                Length::Known(n) => Reading::Length(n),
                Length::Chunked => Reading::Chunked(Decoder::new()),
                Length::UntilClose => Reading::UntilClose,
            };
            return Ok(Some(Event::Head(parts)));
        }
    }

    /// Records the arrival of body bytes for the timeouts.
    fn record_progress(&mut self, now: Instant, bytes: usize) {
        self.since = now;
        self.rate_meter.record(self.limits.body_rate, now, bytes as u64);
    }

    fn recv_end(&mut self, now: Instant, trailers: Option<HeaderMap>) -> Event<R::Head> {
        self.reading = Reading::Done;
        (self.rate_meter, self.body_deadline) = (RateMeter::default(), None);
        self.try_keep_alive(now);
        Event::End(trailers)
    }

    /// Handles the end of the peer's stream.
    ///
    /// It is in order between messages, and at the end of a body that ends with the connection, for
    /// which it returns [`Event::End`].
    ///
    /// # Errors
    /// [`Fault::Truncated`] in the middle of a message, or while a response is outstanding.
    pub fn recv_eof(&mut self, now: Instant) -> Result<Option<Event<R::Head>>, Fault> {
        self.keep_alive = false;
        let is_awaiting_response = self.is_awaiting_response();
        match std::mem::replace(&mut self.reading, Reading::Closed) {
            Reading::UntilClose | Reading::Length(0) => Ok(Some(self.recv_end(now, None))),
            Reading::Closed => Ok(None),
            Reading::Done => {
                self.reading = Reading::Done;
                Ok(None)
            }
            Reading::Idle { .. } if !is_awaiting_response => Ok(None),
            Reading::Head if self.lines.is_empty() && !is_awaiting_response => Ok(None),
            Reading::Idle { .. } | Reading::Head | Reading::Length(_) | Reading::Chunked(_) => {
                Err(Fault::Truncated)
            }
        }
    }

    /// Handles a [`deadline`](Self::deadline) that has passed.
    ///
    /// `None` means that the connection was idle: close it without an answer.
    pub fn timeout(&mut self) -> Option<Fault> {
        self.keep_alive = false;
        let was_idle = self.is_before_message() && !self.is_awaiting_response();
        match std::mem::replace(&mut self.reading, Reading::Closed) {
            Reading::Closed | Reading::Done | Reading::Length(0) => None,
            _ if was_idle => None,
            Reading::Idle { .. }
            | Reading::Head
            | Reading::Length(_)
            | Reading::Chunked(_)
            | Reading::UntilClose => Some(Fault::Timeout),
        }
    }

    /// Whether nothing of the next message has arrived, not counting empty lines before it.
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

    /// Whether at least the head of a request was sent and nothing of its final response has arrived.
    fn is_awaiting_response(&self) -> bool {
        R::IS_CLIENT && self.writing != Writing::Idle && self.is_before_message()
    }
}

/// Output.
impl<R: Role> Conn<R> {
    /// Announces `n` bytes of the body: writes the prefix that they need, and returns their suffix.
    ///
    /// The caller sends the bytes themselves between the two, so they need not be copied.
    ///
    /// # Errors
    /// [`Misuse::State`] if no body is being sent, [`Misuse::TooLong`] if it would exceed its announced
    /// length.
    pub fn send_data(&mut self, n: usize, out: &mut BytesMut) -> Result<&'static [u8], Misuse> {
        match &mut self.writing {
            _ if n == 0 => Ok(b""),
            Writing::Length(left) => {
                *left = left.checked_sub(n as u64).ok_or(Misuse::TooLong)?;
                Ok(b"")
            }
            Writing::Chunked => {
                encode::chunk_size(n, out);
                Ok(b"\r\n")
            }
            Writing::UntilClose => Ok(b""),
            Writing::Idle | Writing::Done | Writing::Closed => Err(Misuse::State),
        }
    }

    /// Ends the message. Trailers go out with a chunked body and are dropped otherwise.
    ///
    /// # Errors
    /// [`Misuse::TooShort`] before all announced bytes: send them, or close the connection.
    /// [`Misuse::State`] if no body is being sent.
    pub fn send_end(
        &mut self,
        now: Instant,
        trailers: Option<&HeaderMap>,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        match self.writing {
            Writing::Length(0) => {}
            Writing::Length(_) => return Err(Misuse::TooShort),
            Writing::Chunked => encode::last_chunk(trailers, out),
            Writing::UntilClose => self.keep_alive = false,
            Writing::Idle | Writing::Done | Writing::Closed => return Err(Misuse::State),
        }
        self.writing = Writing::Done;
        if R::IS_CLIENT || self.is_before_message() {
            self.since = now; // from here on the rest of the response is awaited
        }
        self.try_keep_alive(now);
        Ok(())
    }

    /// Closes the connection after the current exchange, or now if it is idle.
    pub fn disable_keep_alive(&mut self) {
        self.keep_alive = false;
        if self.is_idle() {
            self.reading = Reading::Closed;
            self.writing = Writing::Closed;
        }
    }

    /// Gives up a message that is being sent, so that no other can follow it. The peer's message may still be
    /// received, and the connection is closed after it.
    pub fn abandon_body(&mut self) {
        self.keep_alive = false;
        if self.is_writing_body() {
            self.writing = Writing::Closed;
        }
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
}
