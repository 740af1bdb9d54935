//! Input: parses the messages of the peer.

use std::time::Instant;

use bytes::BytesMut;
use http::HeaderMap;

use super::{Conn, Event, Reading, Role, Writing};
use crate::{
    peer::RateMeter,
    proto::h1::{
        Fault, Length, Misuse,
        chunked::{Decoder, Step},
    },
};

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

    /// Reports that `n` bytes of the body have arrived and were moved from the socket without [`recv`](Self::recv).
    ///
    /// No bytes of this body may be in the input, and its length must be known: see
    /// [`remaining_body`](Self::remaining_body). `recv` returns the end of the body as usual.
    ///
    /// # Errors
    /// [`Misuse::State`] if no body of known length is being received, [`Misuse::TooLong`] if it is shorter.
    pub fn recv_moved(&mut self, now: Instant, n: usize) -> Result<(), Misuse> {
        let Reading::Length(left) = &mut self.reading else { return Err(Misuse::State) };
        *left = left.checked_sub(n as u64).ok_or(Misuse::TooLong)?;
        self.record_progress(now, n);
        self.role.on_body_data();
        Ok(())
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
}
