//! Output: the bodies of messages. The two roles send their heads.

use std::time::Instant;

use bytes::BytesMut;
use http::HeaderMap;

use super::{Conn, Reading, Role, Writing};
use crate::proto::h1::{Misuse, encode};

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

    /// Stops sending a message before its end, so that no other can follow it. The peer's message may still be
    /// received, and the connection is closed after it.
    pub fn abandon_body(&mut self) {
        self.keep_alive = false;
        if self.is_writing_body() {
            self.writing = Writing::Closed;
        }
    }
}
