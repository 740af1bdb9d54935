//! FastCGI over a [`Connection`](crate::conn::client::Connection): one exchange at a time with an
//! application, for example php-fpm.

#[cfg_attr(
    not(any(feature = "process", feature = "upstream")),
    allow(dead_code, reason = "for services that run scripts")
)]
pub(crate) mod scripts;
mod stderr;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Instant};

use bytes::BytesMut;
use http::{HeaderMap, Request, request, response};

use self::stderr::StderrLog;
use super::{
    RequestInfo, client,
    client::{NextRead, sealed::Protocol},
};
use crate::{
    body::Body,
    conn::Checkin,
    error::Kind,
    net::{Io, clock},
    proto::{
        fcgi::{Conn, Event, Fault, Limits, Misuse, Params, Rejection},
        h1,
    },
    semantics::gateway,
};

/// The core of a connection to an application, and the log of what it writes to STDERR.
#[derive(Debug)]
pub struct Core {
    conn: Conn,
    stderr: StderrLog,
    /// Whether the application is known to be PHP.
    is_php: bool,
}

/// A connection to an application, between exchanges.
///
/// The application's STDERR is logged line by line: a `WARN` event "application wrote to
/// stderr" of the target `vestibule::fastcgi`, with the field `stderr` and those of the request.
pub type Connection<I> = client::Connection<Core, I>;

/// The future of [`Connection::exchange`].
pub type Exchange<I, C> = client::Exchange<Core, I, C>;

/// The cause of a failed exchange with an application.
pub type Cause = client::Cause<Core>;

/// A failed exchange with an application.
pub type ExchangeError = client::ExchangeError<Core>;

impl<I: Io> Connection<I> {
    /// Creates the driver of a new connection.
    ///
    /// `head_timeout` of `limits` is the time from the end of the request to the head of the response,
    /// and `body_timeout` bounds each pause in its body and in sending.
    pub fn new(io: I, limits: Arc<Limits>) -> Self {
        let write_timeout = limits.write_timeout();
        let conn = Conn::new(limits, clock::now());
        Self::with_core(
            io,
            Core { conn, stderr: StderrLog::default(), is_php: false },
            write_timeout,
        )
    }

    /// Records that the application is PHP: after its last request on a connection it closes its sending half, and then
    /// reads until the connection is closed. For a request that it has begun, it sends END_REQUEST first, so a half-close
    /// without a response means that it has not begun the request. Other applications may do the same in the middle of one.
    #[cfg_attr(not(feature = "process"), allow(dead_code, reason = "for php-fpm"))]
    pub(crate) fn for_php(mut self) -> Self {
        self.core_mut().is_php = true;
        self
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
        self.exchange_with(request, params, checkin)
    }
}

impl Protocol for Core {
    type Extra = Params;
    type Fault = Fault;
    type Misuse = Misuse;

    fn begin_request(&mut self, head: &request::Parts) {
        self.stderr.begin_request(RequestInfo::from_parts(head));
    }

    fn send_request(
        &mut self,
        now: Instant,
        head: &request::Parts,
        params: &Params,
        length: Option<u64>,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        let length = length.ok_or(Misuse::UnknownLength)?;
        self.conn.send_request(now, &head.method, length, params, out)
    }

    fn send_data(
        &mut self,
        len: usize,
        out: &mut BytesMut,
    ) -> Result<(usize, &'static [u8]), Misuse> {
        Ok((self.conn.send_data(len, out)?, b""))
    }

    /// CGI has no trailers: they are dropped.
    fn send_end(
        &mut self,
        now: Instant,
        _trailers: Option<&HeaderMap>,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        self.conn.send_end(now, out)
    }

    /// Returns the next event; STDERR is logged instead.
    fn recv(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
    ) -> Result<Option<h1::Event<response::Parts>>, Fault> {
        loop {
            let event = match self.conn.recv(now, input)? {
                Some(Event::Stderr(bytes)) => {
                    self.stderr.write(&bytes);
                    continue;
                }
                Some(Event::End { .. }) => {
                    self.stderr.end_request(self.conn.dropped_stderr());
                    h1::Event::End(None)
                }
                Some(Event::Head(mut head)) => {
                    gateway::prepare_response(&mut head.headers);
                    h1::Event::Head(head)
                }
                Some(Event::Data(data)) => h1::Event::Data(data),
                // Only an answer to GET_VALUES, which is not sent.
                Some(Event::Values(_)) | None => return Ok(None),
            };
            return Ok(Some(event));
        }
    }

    fn recv_eof(&mut self, _now: Instant) -> Result<Option<h1::Event<response::Parts>>, Fault> {
        self.conn.recv_eof().map(|()| None)
    }

    fn next_read(&self) -> NextRead {
        if self.conn.is_reading_body() { NextRead::Body(None) } else { NextRead::Head }
    }

    fn remaining_body(&self) -> Option<u64> {
        self.conn.remaining_body()
    }

    fn may_hold_body(&self, _input: &[u8]) -> bool {
        true // the core itself may hold a part of it
    }

    fn deadline(&self) -> Option<Instant> {
        self.conn.deadline()
    }

    fn resume(&mut self, now: Instant) {
        self.conn.resume(now);
    }

    fn abandon_body(&mut self) {
        self.conn.abandon_body();
    }

    fn can_begin(&self) -> bool {
        self.conn.is_idle() && self.conn.keeps_alive()
    }

    fn half_close_refuses(&self) -> bool {
        self.is_php
    }

    fn fault_kind(fault: &Fault) -> Kind {
        match fault {
            Fault::Rejected(Rejection::Overloaded) => Kind::Overloaded,
            _ => Kind::BadGateway,
        }
    }
}
