//! HTTP/1.1 from the client's side, over a [`Connection`](crate::conn::client::Connection).

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Request, Version, request, response};

use crate::{
    body::Body,
    conn::{
        Checkin, client,
        client::{NextRead, sealed::Protocol},
        head_pool,
    },
    net::{Io, clock},
    proto::h1::{self, Conn, Event, Fault, Limits, Misuse},
    semantics::upgrade::requested_by,
};

pub use crate::conn::client::Parts;

/// The core of a connection to an HTTP/1.1 server.
pub type Core = Conn<h1::Client>;

/// A connection to an HTTP/1.1 server, between exchanges.
pub type Connection<I> = client::Connection<Core, I>;

/// The future of [`Connection::exchange`].
pub type Exchange<I, C> = client::Exchange<Core, I, C>;

/// The cause of a failed exchange with an HTTP/1.1 server.
pub type Cause = client::Cause<Core>;

/// A failed exchange with an HTTP/1.1 server.
pub type ExchangeError = client::ExchangeError<Core>;

impl<I: Io> Connection<I> {
    /// Creates the driver of a new connection.
    ///
    /// Of `limits`, `head_timeout` is the time from the end of the request to the head of the
    /// response, and `body_timeout` bounds each pause in its body and in sending.
    pub fn new(io: I, limits: Arc<Limits>) -> Self {
        let write_timeout = limits.body_timeout;
        Self::with_core(io, Conn::new(limits, clock::now()), write_timeout)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the
    /// head. The response's body owns the connection until it has ended, and then gives it to
    /// `checkin`.
    ///
    /// If the request [asks for a switch](crate::semantics::upgrade::requested) and the server agrees, the response is
    /// 101, and [`upgrade::take_stream`](crate::conn::upgrade::take_stream) returns the stream. The
    /// `Sec-WebSocket-Accept` to a request with `Sec-WebSocket-Key` is verified (RFC 6455 section 4.1).
    pub fn exchange<C: Checkin<Self>>(self, request: Request<Body>, checkin: C) -> Exchange<I, C> {
        self.exchange_with(request, (), checkin)
    }
}

impl Protocol for Core {
    type Extra = ();
    type Fault = Fault;
    type Misuse = Misuse;

    fn send_request(
        &mut self,
        now: Instant,
        head: &request::Parts,
        (): &(),
        length: Option<u64>,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        // The version is that of this hop.
        if let Some(protocol) = requested_by(&head.method, Version::HTTP_11, &head.headers) {
            self.ask_for_switch(protocol.clone());
        }
        self.send_head(now, &head.method, &head.uri, &head.headers, length, &[], out)
    }

    fn send_data(
        &mut self,
        len: usize,
        out: &mut BytesMut,
    ) -> Result<(usize, &'static [u8]), Misuse> {
        Ok((len, Self::send_data(self, len, out)?))
    }

    fn send_end(
        &mut self,
        now: Instant,
        trailers: Option<&HeaderMap>,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        Self::send_end(self, now, trailers, out)
    }

    fn recv(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<Option<Event<response::Parts>>, Fault> {
        self.recv_with(now, input, head_pool::acquire_fields)
    }

    fn recv_eof(&mut self, now: Instant) -> Result<Option<Event<response::Parts>>, Fault> {
        Self::recv_eof(self, now)
    }

    fn next_read(&self) -> NextRead {
        if self.is_reading_body() { NextRead::Body(self.remaining_body()) } else { NextRead::Head }
    }

    fn remaining_body(&self) -> Option<u64> {
        Self::remaining_body(self)
    }

    fn unframed_body(&self) -> u64 {
        Self::remaining_body(self).unwrap_or(0)
    }

    fn sends_any_length() -> bool {
        true
    }

    fn recv_moved(&mut self, now: Instant, n: usize) -> Result<(), Misuse> {
        Self::recv_moved(self, now, n)
    }

    /// `false` of a chunked body, so that its pieces and trailers pass as they come.
    fn may_hold_body(&self, input: &[u8]) -> bool {
        self.remaining_body().is_some_and(|n| n <= input.len() as u64)
    }

    fn deadline(&self) -> Option<Instant> {
        Self::deadline(self)
    }

    fn resume(&mut self, now: Instant) {
        Self::resume(self, now);
    }

    fn abandon_body(&mut self) {
        Self::abandon_body(self);
    }

    fn awaits_continue(&self) -> bool {
        Self::awaits_continue(self)
    }

    fn take_interim(&mut self) -> Option<response::Parts> {
        Self::take_interim(self)
    }

    fn has_switched(&self) -> bool {
        Self::has_switched(self)
    }

    fn can_begin(&self) -> bool {
        self.is_idle()
    }
}
