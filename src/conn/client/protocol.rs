//! `Protocol`: the interface between the client's driver and a protocol.

/// A protocol of a client's [`Connection`](super::Connection): HTTP/1.1 or FastCGI.
///
/// Only the cores of this crate implement it.
pub trait Protocol: sealed::Protocol {}

impl<P: sealed::Protocol> Protocol for P {}

/// The size of the next read.
#[derive(Debug, Clone, Copy)]
pub enum NextRead {
    /// A part of a head.
    Head,
    /// A part of a body, of which this many bytes remain, if known.
    Body(Option<u64>),
}

pub(crate) mod sealed {
    use std::{error::Error as StdError, fmt, time::Instant};

    use bytes::BytesMut;
    use http::{HeaderMap, request, response};

    use super::NextRead;
    use crate::{error::Kind, proto::h1::Event};

    /// A protocol's core, from the client's side: state without a socket, task or clock.
    pub trait Protocol: fmt::Debug + Send + Unpin + 'static {
        /// Data that is sent in addition to the request.
        type Extra: Send + Unpin + 'static;
        /// An error of the server.
        type Fault: StdError + Send + Sync + 'static;
        /// An error of the caller.
        type Misuse: StdError + Send + Sync + 'static;

        /// Prepares for a request, which is sent next.
        fn begin_request(&mut self, _head: &request::Parts) {}

        /// Sends the head of a request; `length` is that of its body, `None` if unknown.
        fn send_request(
            &mut self,
            now: Instant,
            head: &request::Parts,
            extra: &Self::Extra,
            length: Option<u64>,
            out: &mut BytesMut,
        ) -> Result<(), Self::Misuse>;

        /// Announces up to `len` bytes of the body. Returns how many the caller may send, and what must follow them.
        fn send_data(
            &mut self,
            len: usize,
            out: &mut BytesMut,
        ) -> Result<(usize, &'static [u8]), Self::Misuse>;

        /// Ends the request.
        fn send_end(
            &mut self,
            now: Instant,
            trailers: Option<&HeaderMap>,
            out: &mut BytesMut,
        ) -> Result<(), Self::Misuse>;

        /// Parses the next event from the front of `input`.
        fn recv(
            &mut self,
            now: Instant,
            input: &mut BytesMut,
        ) -> Result<Option<Event<response::Parts>>, Self::Fault>;

        /// Handles the end of the server's stream.
        fn recv_eof(&mut self, now: Instant)
        -> Result<Option<Event<response::Parts>>, Self::Fault>;

        /// Returns the expected content of the next read.
        fn next_read(&self) -> NextRead;

        /// Returns the bytes of the body that `recv` has not returned, if known.
        fn remaining_body(&self) -> Option<u64>;

        /// Returns the number of bytes of the body that `recv` has not returned, if they are on the stream without
        /// framing; otherwise, or if the number is unknown, 0.
        fn unframed_body(&self) -> u64 {
            0
        }

        /// Returns whether `send_data` always takes the whole length.
        fn sends_any_length() -> bool {
            false
        }

        /// Records that `n` of these bytes were moved elsewhere. `input` must be empty.
        fn recv_moved(&mut self, _now: Instant, _n: usize) -> Result<(), Self::Misuse> {
            Ok(())
        }

        /// Returns whether `input` may contain the whole rest of the body.
        fn may_hold_body(&self, input: &[u8]) -> bool;

        /// Returns the time by which the server must make progress.
        fn deadline(&self) -> Option<Instant>;

        /// Restarts the server's timeout.
        fn resume(&mut self, now: Instant);

        /// Stops sending the request's body: the response may still be received, and the connection is closed after
        /// it.
        fn abandon_body(&mut self);

        /// Returns whether the request has `Expect: 100-continue` and the server has not answered (RFC 9110 section
        /// 10.1.1).
        fn awaits_continue(&self) -> bool {
            false
        }

        /// Returns the next interim response that has arrived, other than 100 (RFC 9110 section 15.2).
        fn take_interim(&mut self) -> Option<response::Parts> {
            None
        }

        /// Returns whether the server has switched to the protocol that the request asked for: all bytes after the
        /// head of its response are of that protocol.
        fn has_switched(&self) -> bool {
            false
        }

        /// Returns whether an exchange can begin.
        fn can_begin(&self) -> bool;

        /// Returns whether a half-close by the server on a reused connection, before any byte of a response, means that
        /// it did not start to process the request.
        fn half_close_refuses(&self) -> bool {
            false
        }

        /// Returns the kind of the error for a fault.
        fn fault_kind(_fault: &Self::Fault) -> Kind {
            Kind::BadGateway
        }
    }
}
