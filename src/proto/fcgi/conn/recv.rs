//! Input: parses the records of the application.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;

use super::{Conn, Event, Length, Part, Reading, Stream, Writing};
use crate::proto::fcgi::{
    Fault, Rejection,
    pairs::split_first,
    record::{HEADER, Header, MANAGEMENT, REQUEST, kind},
    response::{self as cgi, Head},
};

/// Input.
impl Conn {
    /// Parses the next event from the front of `input` and removes its bytes.
    ///
    /// `None` means that more bytes are needed, or that none are wanted now; [`wants_read`](Self::wants_read)
    /// tells which. Call it again when bytes have been appended to the rest, which is shorter than a record's
    /// header, or than one record of at most [`Limits::max_values_bytes`](crate::proto::fcgi::Limits::max_values_bytes).
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
                    let event = self.recv_content(now, input, stream, left)?;
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

    /// Receives at most `left` bytes of a stream.
    fn recv_content(
        &mut self,
        now: Instant,
        input: &mut BytesMut,
        stream: Stream,
        left: usize,
    ) -> Result<Option<Event>, Fault> {
        match stream {
            Stream::Stderr => Ok(self.recv_stderr(input, left)),
            Stream::Stdout if self.reading == Reading::Head => self.recv_head(now, input, left),
            Stream::Stdout => self.recv_body(now, input, left),
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
