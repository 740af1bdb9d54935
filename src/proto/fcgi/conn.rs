//! `Conn`: the state machine of a connection.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, response};

use super::{
    Fault, Limits, MAX_CONTENT, Misuse, Params, Rejection,
    pairs::{pair_len, put_lengths, split_first},
    record::{HEADER, Header, KEEP_CONN, MANAGEMENT, REQUEST, RESPONDER, kind, write_header},
    response::{self as cgi, Head},
};
use crate::proto::h1::FieldLines;

/// The state machine of one connection to an application, without a socket, task or clock.
///
/// There are four kinds of methods:
/// - *Input*: [`recv`](Self::recv), [`recv_eof`](Self::recv_eof), [`timeout`](Self::timeout) report
///   what arrived from the application.
/// - *Output*: [`send_request`](Self::send_request), [`send_data`](Self::send_data),
///   [`send_end`](Self::send_end), [`send_abort`](Self::send_abort),
///   [`send_get_values`](Self::send_get_values) send records. They append bytes to the caller's buffer.
/// - *Requests to the driver*: [`wants_read`](Self::wants_read), [`deadline`](Self::deadline).
/// - *State*: [`is_idle`](Self::is_idle), [`keeps_alive`](Self::keeps_alive) and others.
///
/// `now` must not go backwards. An output method in a wrong state returns [`Misuse`] and changes
/// nothing; the application's error is a [`Fault`], after which nothing more is read.
///
/// The states of the two halves, reading and writing:
///
/// ```text
///          send_request       send_data*         send_end
/// writing:     Idle ────────▶ Stdin ─────────▶ Stdin ──────▶ Done ──(END_REQUEST)──▶ Idle
///
///          send_request       STDOUT: head       STDOUT*         END_REQUEST
/// reading:     Idle ────────▶ Head ──────────▶ Body ───▶ Body ──────────────▶ Idle
///               │ ▲                                        └──(writing is not Done, or close)──▶ Closed
///               ▼ │ GET_VALUES_RESULT            fault, eof, timeout ▶ Closed
///              Values
/// ```
#[derive(Debug)]
pub struct Conn {
    reading: Reading,
    writing: Writing,
    /// The progress of the record that is being read.
    part: Part,
    stdout_ended: bool,
    stderr_ended: bool,
    /// The bytes of STDOUT up to the end of the head, and then those of the body that arrived with it.
    stdout: BytesMut,
    lines: FieldLines,
    /// Whether the method of the request is HEAD.
    is_head: bool,
    is_aborted: bool,
    keep_alive: bool,
    /// Bytes of STDERR that may still be returned for this request.
    stderr_left: u64,
    dropped_stderr: u64,
    limits: Arc<Limits>,
    /// Start of the phase that [`deadline`](Self::deadline) bounds.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Idle,
    /// Waiting for the result of `GET_VALUES`.
    Values,
    Head,
    Body(Length),
    Closed,
}

/// The length of a response's body by its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// This number of bytes must still arrive.
    Known(u64),
    /// The body is all of STDOUT after the head.
    UntilEnd,
    /// The response has no body; bytes that arrive are dropped.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Idle,
    /// This number of body bytes has still to be sent, and then the end.
    Stdin(u64),
    Done,
}

/// The part of a record that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Content {
        stream: Stream,
        left: usize,
        padding: usize,
    },
    Padding(usize),
    /// The whole content of a short record, which is read when it is complete.
    Whole(Header),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// An event that [`Conn::recv`] returns.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The head of the response.
    Head(response::Parts),
    /// A piece of the body. Never empty.
    Data(Bytes),
    /// A piece of STDERR, which applications use for their log. Never empty.
    Stderr(Bytes),
    /// The request has ended.
    End {
        /// The exit status of the application. php-fpm sends 255 for a script that failed, in addition to
        /// its response with a status of 500.
        app_status: u32,
    },
    /// The result of [`Conn::send_get_values`].
    Values(Vec<(Bytes, Bytes)>),
}

impl Conn {
    /// Creates the state of a new connection.
    pub fn new(limits: Arc<Limits>, now: Instant) -> Self {
        Self {
            reading: Reading::Idle,
            writing: Writing::Idle,
            part: Part::Header,
            stdout_ended: false,
            stderr_ended: false,
            stdout: BytesMut::new(),
            lines: FieldLines::new(limits.head_bytes, limits.fields, limits.name_bytes),
            is_head: false,
            is_aborted: false,
            keep_alive: true,
            stderr_left: 0,
            dropped_stderr: 0,
            limits,
            since: now,
        }
    }
}

/// Input.
impl Conn {
    /// Parses the next event from the front of `input` and removes its bytes.
    ///
    /// `None` means that more bytes are needed, or that none are wanted now; [`wants_read`](Self::wants_read)
    /// tells which. Call it again when bytes have been appended to the rest, which is shorter than a record's
    /// header, or than one record of at most [`Limits::max_values_bytes`].
    ///
    /// # Errors
    /// The application's [`Fault`]. The connection is closed after it.
    pub fn recv(&mut self, now: Instant, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        let result = self.recv_inner(now, input);
        if result.is_err() {
            self.close();
        }
        result
    }

    fn recv_inner(&mut self, now: Instant, input: &mut BytesMut) -> Result<Option<Event>, Fault> {
        if matches!(self.reading, Reading::Body(_)) && !self.stdout.is_empty() {
            let mut rest = std::mem::take(&mut self.stdout);
            let len = rest.len();
            let event = self.recv_body(now, &mut rest, len)?;
            self.stdout = rest;
            if event.is_some() {
                return Ok(event);
            }
        }
        loop {
            match self.reading {
                Reading::Closed => return Ok(None),
                Reading::Idle if input.is_empty() => return Ok(None),
                Reading::Idle => return Err(Fault::Unsolicited),
                Reading::Values | Reading::Head | Reading::Body(_) => {}
            }
            match self.part {
                Part::Header => {
                    let Some(bytes) = input.first_chunk::<HEADER>() else { return Ok(None) };
                    let header = Header::decode(bytes)?;
                    input.advance(HEADER);
                    self.part = self.begin_record(header)?;
                }
                Part::Padding(0) => self.part = Part::Header,
                Part::Padding(_) | Part::Content { .. } if input.is_empty() => return Ok(None),
                Part::Padding(left) => {
                    let n = left.min(input.len());
                    input.advance(n);
                    self.part = Part::Padding(left - n);
                }
                Part::Content { stream, left, padding } => {
                    let before = input.len();
                    let event = match stream {
                        Stream::Stderr => self.recv_stderr(input, left),
                        Stream::Stdout if self.reading == Reading::Head => {
                            self.recv_head(now, input, left)?
                        }
                        Stream::Stdout => self.recv_body(now, input, left)?,
                    };
                    let left = left - (before - input.len());
                    self.part = match left {
                        0 => Part::Padding(padding),
                        left => Part::Content { stream, left, padding },
                    };
                    if event.is_some() {
                        return Ok(event);
                    }
                }
                Part::Whole(header) => {
                    let content = usize::from(header.content);
                    let len = content + usize::from(header.padding);
                    if input.len() < len {
                        return Ok(None);
                    }
                    let content = input.split_to(len).freeze().slice(..content);
                    self.part = Part::Header;
                    return self.recv_whole(now, header.kind, &content).map(Some);
                }
            }
        }
    }

    /// Returns the part that follows a record's header.
    fn begin_record(&mut self, header: Header) -> Result<Part, Fault> {
        let Header { kind, request, content, padding } = header;
        if request == MANAGEMENT {
            return match (kind, self.reading) {
                (kind::UNKNOWN_TYPE, _) => Err(Fault::UnknownType),
                (kind::GET_VALUES_RESULT, Reading::Values) => {
                    let is_small = usize::from(content) <= self.limits.values_bytes;
                    if is_small { Ok(Part::Whole(header)) } else { Err(Fault::ValuesTooLarge) }
                }
                _ => Err(Fault::RecordType),
            };
        }
        if request != REQUEST {
            return Err(Fault::RequestId);
        }
        let (stream, ended) = match kind {
            _ if self.reading == Reading::Values => return Err(Fault::RecordType),
            kind::STDOUT => (Stream::Stdout, &mut self.stdout_ended),
            kind::STDERR => (Stream::Stderr, &mut self.stderr_ended),
            kind::END_REQUEST if content == 8 => return Ok(Part::Whole(header)),
            kind::END_REQUEST => return Err(Fault::Record),
            _ => return Err(Fault::RecordType),
        };
        if *ended {
            return Err(Fault::StreamEnded);
        }
        if content > 0 {
            let (left, padding) = (content.into(), padding.into());
            return Ok(Part::Content { stream, left, padding });
        }
        *ended = true;
        if stream == Stream::Stdout {
            self.end_of_stdout()?;
        }
        Ok(Part::Padding(padding.into()))
    }

    /// Checks that the response is complete, at the end of STDOUT.
    fn end_of_stdout(&self) -> Result<(), Fault> {
        match self.reading {
            _ if self.is_aborted => Ok(()),
            Reading::Head => Err(Fault::NoHead),
            Reading::Body(Length::Known(1..)) => Err(Fault::BodyTooShort),
            Reading::Body(_) | Reading::Idle | Reading::Values | Reading::Closed => Ok(()),
        }
    }

    fn recv_stderr(&mut self, input: &mut BytesMut, left: usize) -> Option<Event> {
        let n = left.min(input.len());
        let piece = input.split_to(n);
        let returned = n.min(usize::try_from(self.stderr_left).unwrap_or(usize::MAX));
        self.stderr_left -= returned as u64;
        self.dropped_stderr += (n - returned) as u64;
        (returned > 0).then(|| Event::Stderr(piece.freeze().slice(..returned)))
    }

    fn recv_head(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        left: usize,
    ) -> Result<Option<Event>, Fault> {
        let piece = input.split_to(left.min(input.len()));
        if self.stdout.is_empty() {
            self.stdout = piece; // most heads are in one piece, which is then not copied
        } else {
            self.stdout.extend_from_slice(&piece);
        }
        let Some(len) = self.lines.read(&self.stdout)? else { return Ok(None) };
        let head = self.stdout.split_to(len).freeze();
        let Head { parts, content_length } = cgi::parse(&self.lines, &head)?;
        let length = match (parts.status, content_length) {
            _ if self.is_head => Length::Dropped,
            (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Length::Dropped,
            (_, Some(n)) => Length::Known(n),
            (_, None) => Length::UntilEnd,
        };
        self.reading = Reading::Body(length);
        self.since = now;
        Ok(Some(Event::Head(parts)))
    }

    /// Returns a piece of the body, at most `left` bytes from the front of `from`.
    fn recv_body(
        &mut self,
        now: Instant,
        from: &mut BytesMut,
        left: usize,
    ) -> Result<Option<Event>, Fault> {
        let n = left.min(from.len());
        self.since = now;
        let n = match &mut self.reading {
            Reading::Body(Length::Known(0)) if !self.is_aborted => return Err(Fault::BodyTooLong),
            Reading::Body(Length::Known(rest @ 1..)) => {
                let n = n.min(usize::try_from(*rest).unwrap_or(usize::MAX));
                *rest -= n as u64;
                n
            }
            Reading::Body(Length::UntilEnd) => n,
            Reading::Body(_)
            | Reading::Head
            | Reading::Idle
            | Reading::Values
            | Reading::Closed => {
                from.advance(n);
                return Ok(None);
            }
        };
        Ok(Some(Event::Data(from.split_to(n).freeze())))
    }

    fn recv_whole(&mut self, now: Instant, kind: u8, content: &Bytes) -> Result<Event, Fault> {
        self.since = now;
        if kind == kind::GET_VALUES_RESULT {
            self.reading = Reading::Idle;
            return values(content).map(Event::Values).ok_or(Fault::Record);
        }
        let [a, b, c, d, protocol_status, ..] = content[..] else { return Err(Fault::Record) };
        match protocol_status {
            0 => {}
            1 => return Err(Fault::Rejected(Rejection::CantMultiplex)),
            2 => return Err(Fault::Rejected(Rejection::Overloaded)),
            3 => return Err(Fault::Rejected(Rejection::UnknownRole)),
            _ => return Err(Fault::Record),
        }
        self.end_of_stdout()?;
        let is_sent = std::mem::replace(&mut self.writing, Writing::Idle) == Writing::Done;
        self.stdout.clear();
        self.reading = if self.keep_alive && is_sent { Reading::Idle } else { Reading::Closed };
        self.keep_alive &= is_sent;
        Ok(Event::End { app_status: u32::from_be_bytes([a, b, c, d]) })
    }

    /// Handles the end of the application's stream.
    ///
    /// # Errors
    /// [`Fault::Truncated`] unless the connection was idle: a response ends with a record, never with the
    /// connection.
    pub fn recv_eof(&mut self) -> Result<(), Fault> {
        let was_idle = matches!(self.reading, Reading::Idle | Reading::Closed);
        self.close();
        if was_idle { Ok(()) } else { Err(Fault::Truncated) }
    }

    /// Handles a [`deadline`](Self::deadline) that has passed. Returns `None` if the connection was idle.
    pub fn timeout(&mut self) -> Option<Fault> {
        let was_idle = matches!(self.reading, Reading::Idle | Reading::Closed);
        self.close();
        (!was_idle).then_some(Fault::Timeout)
    }

    fn close(&mut self) {
        self.reading = Reading::Closed;
        self.keep_alive = false;
        self.stdout = BytesMut::new();
    }
}

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

    /// Requests values of the application, such as `FCGI_MAX_CONNS`. The result, [`Event::Values`], has those
    /// that it supports. php-fpm closes the connection after it.
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
}

/// Output without bytes.
impl Conn {
    /// Gives up a request's body that is being sent: the response may still be received, and the connection is
    /// closed after it.
    pub fn abandon_body(&mut self) {
        self.keep_alive = false;
        if self.is_writing_body() {
            self.writing = Writing::Done;
        }
    }
}

/// Requests to the driver.
impl Conn {
    /// Returns whether more bytes can be used now.
    pub fn wants_read(&self) -> bool {
        self.reading != Reading::Closed
    }

    /// Returns the time by which the application must make progress, or `None` while it is not awaited.
    ///
    /// The driver calls [`timeout`](Self::timeout) when it has passed.
    pub fn deadline(&self) -> Option<Instant> {
        let span = match self.reading {
            // Our own request is not complete, even if the response has begun.
            Reading::Head | Reading::Body(_) if self.is_writing_body() => return None,
            Reading::Head | Reading::Values => self.limits.head_timeout,
            Reading::Body(_) => self.limits.body_timeout,
            Reading::Idle | Reading::Closed => return None,
        };
        // A timeout beyond the clock's range is no deadline.
        self.since.checked_add(span)
    }

    /// Restarts the application's timeouts, after a pause during which the driver did not read.
    pub fn resume(&mut self, now: Instant) {
        self.since = now;
    }
}

/// State.
impl Conn {
    /// Returns whether a request may be sent.
    pub fn is_idle(&self) -> bool {
        self.reading == Reading::Idle
    }

    /// Returns whether another request may follow the current one.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Returns whether nothing more will be read.
    pub fn is_closed(&self) -> bool {
        self.reading == Reading::Closed
    }

    /// Returns whether the head of a response has been received, but not its end.
    pub fn is_reading_body(&self) -> bool {
        matches!(self.reading, Reading::Body(_))
    }

    /// Returns the number of body bytes that have not been received yet, or `None` if it is unknown.
    pub fn remaining_body(&self) -> Option<u64> {
        match self.reading {
            Reading::Body(Length::Known(n)) => Some(n),
            Reading::Body(Length::UntilEnd) => None,
            Reading::Body(Length::Dropped)
            | Reading::Idle
            | Reading::Values
            | Reading::Head
            | Reading::Closed => Some(0),
        }
    }

    /// Returns whether a request has been sent, but not the end of its body.
    pub fn is_writing_body(&self) -> bool {
        matches!(self.writing, Writing::Stdin(_))
    }

    /// Returns the number of bytes of STDERR that were dropped, beyond [`Limits::max_stderr_bytes`], of the
    /// current or the last request.
    pub fn dropped_stderr(&self) -> u64 {
        self.dropped_stderr
    }
}

/// Returns the pairs of a result of `GET_VALUES`; `None` if it is malformed.
fn values(content: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let (mut rest, mut values) = (&content[..], Vec::new());
    while !rest.is_empty() {
        let ((name, value), next) = split_first(rest)?;
        values.push((content.slice_ref(name), content.slice_ref(value)));
        rest = next;
    }
    Some(values)
}
