//! The connection's state machine.

use std::{sync::Arc, time::Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode, response};

use super::{
    Fault, Limits, MAX_CONTENT, Misuse, Params, Rejection,
    pairs::{pair_len, put_lengths, split_first},
    record::{HEADER, Header, KEEP_CONN, MANAGEMENT, REQUEST, RESPONDER, header, kind},
    response::{self as cgi, Head},
};
use crate::proto::h1::FieldLines;

/// One connection to an application, without the connection: no socket, no task, no clock.
///
/// Methods come in four kinds.
/// - *Told*: [`recv`](Self::recv), [`recv_eof`](Self::recv_eof), [`timeout`](Self::timeout): something
///   happened out there.
/// - *Asked*: [`send_request`](Self::send_request), [`send_data`](Self::send_data),
///   [`send_end`](Self::send_end), [`send_abort`](Self::send_abort),
///   [`send_get_values`](Self::send_get_values): the caller wants something sent. They append bytes
///   to a buffer of the caller's.
/// - *Wants*: [`wants_read`](Self::wants_read), [`deadline`](Self::deadline): what the driver should
///   do next.
/// - *State*: [`is_idle`](Self::is_idle), [`keeps_alive`](Self::keeps_alive) and others.
///
/// `now` must not go backwards. An *asked* method in a wrong state returns [`Misuse`] and changes
/// nothing; the application's error is a [`Fault`], after which nothing more is read.
///
/// The two halves:
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
    /// The record that is being read.
    part: Part,
    /// STDOUT has ended.
    stdout_ended: bool,
    /// STDERR has ended.
    stderr_ended: bool,
    /// STDOUT up to the end of the head; behind it, what came with it of the body.
    stdout: BytesMut,
    lines: FieldLines,
    /// The request was HEAD.
    is_head: bool,
    is_aborted: bool,
    keep_alive: bool,
    /// Bytes of STDERR that may still be handed on, for this request.
    stderr_left: u64,
    dropped_stderr: u64,
    limits: Arc<Limits>,
    /// When the phase that [`deadline`](Self::deadline) bounds began.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Idle,
    /// The result of `GET_VALUES` is to come.
    Values,
    Head,
    Body(Length),
    Closed,
}

/// What the head says of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// So many bytes must still come.
    Known(u64),
    /// As many as come.
    UntilEnd,
    /// None: what comes is dropped.
    Dropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Idle,
    /// So many bytes of the request's body are still to be sent, and its end.
    Stdin(u64),
    Done,
}

/// How far the record that is being read has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Content {
        stream: Stream,
        left: usize,
        padding: usize,
    },
    Padding(usize),
    /// A record that is read when all of it has come.
    Whole(Header),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// What [`Conn::recv`] found.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The head of the response.
    Head(response::Parts),
    /// A piece of the body, never empty.
    Data(Bytes),
    /// A piece of what the application wrote for the log, never empty.
    Stderr(Bytes),
    /// The request has ended.
    End {
        /// What the application's program returned. php-fpm says 255 of a script that failed, beside
        /// its response with a status of 500.
        app_status: u32,
    },
    /// The application's answer to [`Conn::send_get_values`].
    Values(Vec<(Bytes, Bytes)>),
}

impl Conn {
    /// A connection at its beginning.
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

/// Told.
impl Conn {
    /// Takes what it can from the front of `input`, which holds what has come and was not taken.
    ///
    /// `None` means that more bytes are needed, or that none are wanted now. Call it again with more
    /// bytes behind those that it left, which are less than a header, or one record of at most
    /// [`Limits::max_values_bytes`].
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

    /// What follows a record's header.
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

    /// STDOUT is complete: is the response?
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
        let kept = n.min(usize::try_from(self.stderr_left).unwrap_or(usize::MAX));
        self.stderr_left -= kept as u64;
        self.dropped_stderr += (n - kept) as u64;
        (kept > 0).then(|| Event::Stderr(piece.freeze().slice(..kept)))
    }

    fn recv_head(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        left: usize,
    ) -> Result<Option<Event>, Fault> {
        let piece = input.split_to(left.min(input.len()));
        if self.stdout.is_empty() {
            self.stdout = piece; // most heads come in one piece, which is not copied
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

    /// Takes a piece of the body, at most `left` bytes, from the front of `from`.
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

    /// The application will send nothing more.
    ///
    /// # Errors
    /// [`Fault::Truncated`] unless the connection was idle: a response ends with its request, never
    /// with the connection.
    pub fn recv_eof(&mut self) -> Result<(), Fault> {
        let was_idle = matches!(self.reading, Reading::Idle | Reading::Closed);
        self.close();
        if was_idle { Ok(()) } else { Err(Fault::Truncated) }
    }

    /// [`deadline`](Self::deadline) has passed. `None` if nothing was waited for.
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

/// Asked.
impl Conn {
    /// Begins a request: `length` is that of its body, which [`send_data`](Self::send_data) announces
    /// and [`send_end`](Self::send_end) ends, an empty one too.
    ///
    /// The application learns the length from `CONTENT_LENGTH` in `params`, which must say the same.
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
        header(kind::BEGIN_REQUEST, REQUEST, 8, out);
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

    /// Announces up to `n` bytes of the body: writes the header of a record, and returns how many
    /// bytes must follow it, at most [`MAX_CONTENT`]. For the others it is called again.
    ///
    /// The bytes themselves are the caller's to send, so they need not be copied.
    ///
    /// # Errors
    /// [`Misuse`] if no body is under way or it would be longer than announced.
    pub fn send_data(&mut self, n: usize, out: &mut BytesMut) -> Result<usize, Misuse> {
        let Writing::Stdin(left) = &mut self.writing else { return Err(Misuse::State) };
        if n as u64 > *left {
            return Err(Misuse::TooLong);
        }
        let n = n.min(MAX_CONTENT);
        if n > 0 {
            *left -= n as u64;
            header(kind::STDIN, REQUEST, n as u16, out);
        }
        Ok(n)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`Misuse::TooShort`] before all announced bytes; the connection can then only be closed.
    pub fn send_end(&mut self, now: Instant, out: &mut BytesMut) -> Result<(), Misuse> {
        match self.writing {
            Writing::Stdin(0) => {}
            Writing::Stdin(_) => return Err(Misuse::TooShort),
            Writing::Idle | Writing::Done => return Err(Misuse::State),
        }
        header(kind::STDIN, REQUEST, 0, out);
        self.writing = Writing::Done;
        if self.reading == Reading::Head {
            self.since = now; // from here on it is the response that is waited for
        }
        Ok(())
    }

    /// Tells the application that the response is no longer wanted. It should end the request soon; a
    /// response that is not complete is no fault then. Closing the connection does as much, and is
    /// what most applications notice.
    ///
    /// # Errors
    /// [`Misuse::State`] if no request is under way.
    pub fn send_abort(&mut self, out: &mut BytesMut) -> Result<(), Misuse> {
        if !matches!(self.reading, Reading::Head | Reading::Body(_)) || self.is_aborted {
            return Err(Misuse::State);
        }
        header(kind::ABORT_REQUEST, REQUEST, 0, out);
        self.is_aborted = true;
        Ok(())
    }

    /// Asks for values of the application, such as `FCGI_MAX_CONNS`; [`Event::Values`] answers, with
    /// those that it knows. php-fpm closes the connection behind its answer.
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
        header(kind::GET_VALUES, MANAGEMENT, content, out);
        for name in names {
            put_lengths(name.len(), 0, out);
            out.extend_from_slice(name.as_bytes());
        }
        self.reading = Reading::Values;
        self.since = now;
        Ok(())
    }

    /// Closes the connection after the present request. The application is told only of a request that
    /// has not been sent.
    pub fn disable_keep_alive(&mut self) {
        self.keep_alive = false;
    }
}

/// Wants.
impl Conn {
    /// Whether more bytes could be of use now.
    pub fn wants_read(&self) -> bool {
        self.reading != Reading::Closed
    }

    /// Until when the application must have made progress; the driver then calls
    /// [`timeout`](Self::timeout). `None` while it is not the application that is waited for.
    pub fn deadline(&self) -> Option<Instant> {
        let span = match self.reading {
            Reading::Head if self.is_writing_body() => return None, // our own request is not complete
            Reading::Head | Reading::Values => self.limits.head_timeout,
            Reading::Body(_) => self.limits.body_timeout,
            Reading::Idle | Reading::Closed => return None,
        };
        // A span so long that it leaves the clock's range is no deadline.
        self.since.checked_add(span)
    }

    /// The application is waited for again, after a pause that was not its own.
    pub fn resume(&mut self, now: Instant) {
        self.since = now;
    }
}

/// State.
impl Conn {
    /// Whether a request may be sent.
    pub fn is_idle(&self) -> bool {
        self.reading == Reading::Idle
    }

    /// Whether another request may follow the present one.
    pub fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// Whether nothing more will be read.
    pub fn is_closed(&self) -> bool {
        self.reading == Reading::Closed
    }

    /// Whether the head of a response has come, and not its end.
    pub fn is_reading_body(&self) -> bool {
        matches!(self.reading, Reading::Body(_))
    }

    /// How many bytes of the response's body are to come, if that is known.
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

    /// Whether a request has begun whose body has not been ended.
    pub fn is_writing_body(&self) -> bool {
        matches!(self.writing, Writing::Stdin(_))
    }

    /// Bytes of STDERR beyond [`Limits::max_stderr_bytes`], which were dropped, of the present or the last
    /// request.
    pub fn dropped_stderr(&self) -> u64 {
        self.dropped_stderr
    }
}

/// The pairs of a result of `GET_VALUES`.
fn values(content: &Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let (mut rest, mut values) = (&content[..], Vec::new());
    while !rest.is_empty() {
        let ((name, value), behind) = split_first(rest)?;
        values.push((content.slice_ref(name), content.slice_ref(value)));
        rest = behind;
    }
    Some(values)
}
