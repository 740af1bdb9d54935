//! Output: writes the records of a request.

use std::time::Instant;

use bytes::BytesMut;
use http::Method;

use super::{Conn, Reading, Writing};
use crate::proto::fcgi::{
    MAX_CONTENT, Misuse, Params,
    pairs::{pair_len, put_lengths},
    record::{KEEP_CONN, MANAGEMENT, REQUEST, RESPONDER, kind, write_header},
};

/// Output.
impl Conn {
    /// Begins a request with a body of `length` bytes. [`send_data`](Self::send_data) announces the body, and
    /// [`send_end`](Self::send_end) must end it, even if it is empty.
    ///
    /// The application takes the length from `CONTENT_LENGTH` in `params`, which must be the same.
    ///
    /// # Errors
    /// [`Misuse::State`] unless the connection is idle.
    pub fn send_request(
        &mut self,
        now: Instant,
        method: &Method,
        length: u64,
        params: &Params,
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        if !self.is_idle() {
            return Err(Misuse::State);
        }
        write_header(kind::BEGIN_REQUEST, REQUEST, 8, out);
        let [role1, role0] = RESPONDER.to_be_bytes();
        let flags = if self.keep_alive { KEEP_CONN } else { 0 };
        out.extend_from_slice(&[role1, role0, flags, 0, 0, 0, 0, 0]);
        params.write(out);
        (self.reading, self.writing) = (Reading::Head, Writing::Stdin(length));
        (self.stdout_ended, self.stderr_ended) = (false, false);
        self.lines.clear();
        self.is_head = method == Method::HEAD;
        self.is_aborted = false;
        (self.stderr_left, self.dropped_stderr) = (self.limits.stderr_bytes, 0);
        self.since = now;
        Ok(())
    }

    /// Announces up to `n` bytes of the body: writes the header of a record, and returns the number of
    /// bytes that must follow it, at most [`MAX_CONTENT`]. Call it again for the rest.
    ///
    /// The caller sends the bytes themselves, so they are not copied.
    ///
    /// # Errors
    /// [`Misuse::State`] if no body is being sent, [`Misuse::TooLong`] if it would exceed its length.
    pub fn send_data(&mut self, n: usize, out: &mut BytesMut) -> Result<usize, Misuse> {
        let Writing::Stdin(left) = &mut self.writing else { return Err(Misuse::State) };
        if n as u64 > *left {
            return Err(Misuse::TooLong);
        }
        let n = n.min(MAX_CONTENT);
        if n > 0 {
            *left -= n as u64;
            write_header(kind::STDIN, REQUEST, n as u16, out);
        }
        Ok(n)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`Misuse::TooShort`] if bytes of the body are missing: send them, or close the connection.
    /// [`Misuse::State`] if no body is being sent.
    pub fn send_end(&mut self, now: Instant, out: &mut BytesMut) -> Result<(), Misuse> {
        match self.writing {
            Writing::Stdin(0) => {}
            Writing::Stdin(_) => return Err(Misuse::TooShort),
            Writing::Idle | Writing::Done => return Err(Misuse::State),
        }
        write_header(kind::STDIN, REQUEST, 0, out);
        self.writing = Writing::Done;
        self.since = now; // the timeout of the head begins, or that of the rest of the body
        Ok(())
    }

    /// Requests that the application aborts the request. Then an incomplete response is no fault. Many
    /// applications ignore this record and notice only a closed connection.
    ///
    /// # Errors
    /// [`Misuse::State`] if there is no request, or it has been aborted already.
    pub fn send_abort(&mut self, out: &mut BytesMut) -> Result<(), Misuse> {
        if !matches!(self.reading, Reading::Head | Reading::Body(_)) || self.is_aborted {
            return Err(Misuse::State);
        }
        write_header(kind::ABORT_REQUEST, REQUEST, 0, out);
        self.is_aborted = true;
        Ok(())
    }

    /// Requests values of the application, such as `FCGI_MAX_CONNS`. The result,
    /// [`Event::Values`](super::Event::Values), has those that it supports. php-fpm closes the connection after it.
    ///
    /// # Errors
    /// [`Misuse::State`] unless the connection is idle, [`Misuse::PairTooLong`] if the names do not fit
    /// into a record.
    pub fn send_get_values(
        &mut self,
        now: Instant,
        names: &[&str],
        out: &mut BytesMut,
    ) -> Result<(), Misuse> {
        if !self.is_idle() {
            return Err(Misuse::State);
        }
        let mut len = 0_usize;
        for name in names {
            len = len.saturating_add(pair_len(name.len(), 0)?);
        }
        let content = u16::try_from(len).map_err(|_| Misuse::PairTooLong)?;
        write_header(kind::GET_VALUES, MANAGEMENT, content, out);
        for name in names {
            put_lengths(name.len(), 0, out);
            out.extend_from_slice(name.as_bytes());
        }
        self.reading = Reading::Values;
        self.since = now;
        Ok(())
    }

    /// Closes the connection after the current request. The application learns it only with a request that is
    /// sent later.
    pub fn disable_keep_alive(&mut self) {
        self.keep_alive = false;
    }

    /// Stops sending a request's body: the response may still be received, and the connection is
    /// closed after it.
    pub fn abandon_body(&mut self) {
        self.keep_alive = false;
        if self.is_writing_body() {
            self.writing = Writing::Done;
        }
    }
}
