//! `Conn`: the state machine of a connection. Only this module and its children change its state.

mod recv;
mod send;

use std::{sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::response;

use super::{Limits, record::Header};
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
/// `now` must not go backwards. An output method in a wrong state returns [`Misuse`](super::Misuse) and changes
/// nothing; the application's error is a [`Fault`](super::Fault), after which nothing more is read.
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
            // The request is not complete, even if the response has begun.
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
