//! `Incoming`: the body of a response, which owns the connection and reads from it when polled.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::SizeHint;

use super::{
    Cause, Connection, Protocol, State,
    upload::{Upload, pump},
};
use crate::{
    body::{Pipe, PollSegment, Segment, Segments},
    budget::Budget,
    conn::{
        Checkin,
        first_read::{MIN_SPLICED, is_splice_unsupported},
    },
    net::{Io, clock},
    proto::h1::Event,
};

/// The body of a response. It owns the connection, and checks it in at its end. Dropping it before its end closes the
/// connection, so that the rest is never read as the response to another request.
pub(super) struct Incoming<P: Protocol, I, C> {
    exchange: Option<(Connection<P, I>, C)>,
    /// The unsent part of the request's body: the server may respond before the request is complete.
    upload: Option<Upload>,
    /// The part of the body that arrived with the head.
    first: Bytes,
    /// The remaining bytes of the body, if known.
    remaining: Option<u64>,
    pipes: Pipes,
}

/// Whether the body is moved through pipes.
enum Pipes {
    /// No: its reader takes bytes.
    Refused,
    /// No: too little of it is still in the socket.
    Unused,
    /// Within this budget.
    Used(Budget),
}

/// The result of a read.
enum Read {
    /// This number of bytes was appended to the input; 0 is the end of the stream.
    Input(usize),
    /// Bytes of the body.
    Pipe(Pipe),
}

impl<P: Protocol, I: Io, C: Checkin<Connection<P, I>>> Incoming<P, I, C> {
    /// Creates a body of `first` and the data that follows on the connection.
    pub(super) fn new(
        connection: Connection<P, I>,
        checkin: C,
        upload: Option<Upload>,
        first: Bytes,
    ) -> Self {
        let remaining = connection.state.core.remaining_body().map(|n| n + first.len() as u64);
        Self {
            exchange: Some((connection, checkin)),
            upload,
            first,
            remaining,
            pipes: Pipes::Refused,
        }
    }

    /// Returns the next segment; `None` is the end of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Segment>, Cause<P>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(Segment::Bytes(std::mem::take(&mut self.first)))));
        }
        let Some((connection, _)) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        let now = clock::now();
        let state = &mut *connection.state;
        loop {
            match state.core.recv(now, &mut state.input).map_err(Cause::Fault)? {
                Some(Event::Data(data)) => return Poll::Ready(Ok(Some(Segment::Bytes(data)))),
                Some(Event::End(trailers)) => {
                    return Poll::Ready(Ok(trailers.map(Segment::Trailers)));
                }
                Some(Event::Head(_)) | None => {}
            }
            if self.upload.is_some() || !state.output.is_empty() {
                state.output.borrow_buffer();
                let pumped = pump(state, &mut self.upload, now, cx);
                let had_room = state.output.has_room();
                // A request that can no longer be written does not invalidate its response.
                let flushed = pumped.map(|()| state.poll_flush(cx, now));
                state.output.return_buffer();
                if !matches!(flushed, Ok(Poll::Pending | Poll::Ready(Ok(())))) {
                    self.upload = None;
                    state.output.clear();
                    state.core.abandon_body();
                } else if !had_room && self.upload.is_some() && state.output.is_empty() {
                    continue; // the pump stopped at a full output, and no waker is registered for it
                }
            }
            match poll_read(state, &self.pipes, now, cx) {
                Poll::Pending if state.poll_expired(cx, now, None) => {
                    return Poll::Ready(Err(Cause::Timeout));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Read::Input(0))) => {
                    return Poll::Ready(match state.core.recv_eof(now).map_err(Cause::Fault)? {
                        Some(Event::End(trailers)) => Ok(trailers.map(Segment::Trailers)),
                        _ => Err(Cause::Closed),
                    });
                }
                Poll::Ready(Ok(Read::Input(_))) => {}
                Poll::Ready(Ok(Read::Pipe(pipe))) => {
                    return Poll::Ready(Ok(Some(Segment::Pipe(pipe))));
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
            }
        }
    }

    /// Ends the body, which has arrived, and checks in the connection if it can be reused.
    fn finish(&mut self) {
        if let Some((connection, checkin)) = self.exchange.take()
            && connection.is_reusable()
        {
            checkin.checkin(connection, clock::now());
        }
    }

    /// Ends the body with its last pipe, so that the connection can be used while a slow client reads the pipe.
    fn finish_if_complete(&mut self) {
        let Some((connection, _)) = &mut self.exchange else { return };
        let state = &mut *connection.state;
        if state.core.remaining_body() == Some(0)
            && self.upload.is_none()
            && matches!(state.core.recv(clock::now(), &mut state.input), Ok(Some(Event::End(None))))
        {
            self.finish();
        }
    }
}

/// Reads into the input, or into a pipe if that is possible.
fn poll_read<P: Protocol, I: Io>(
    state: &mut State<P, I>,
    pipes: &Pipes,
    now: Instant,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Read>> {
    let Pipes::Used(budget) = pipes else {
        if matches!(pipes, Pipes::Refused) {
            state.first_read.record_refused_pipes();
        }
        return state.poll_read(cx).map_ok(Read::Input);
    };
    let left = usize::try_from(state.core.unframed_body()).unwrap_or(usize::MAX);
    if left > 0
        && state.input.is_empty()
        && !budget.is_above_soft_limit()
        && let Some(mut pipe) = Pipe::try_acquire()
    {
        match ready!(state.io.poll_fill_pipe(cx, &mut pipe, left)) {
            Ok(0) => return Poll::Ready(Ok(Read::Input(0))),
            Ok(n) => {
                state.core.recv_moved(now, n).map_err(io::Error::other)?;
                pipe.hold(budget.memory_lease());
                return Poll::Ready(Ok(Read::Pipe(pipe)));
            }
            // Not this kind of socket.
            Err(e) if is_splice_unsupported(&e) => {}
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
    state.poll_read(cx).map_ok(Read::Input)
}

impl<P, I, C> Segments for Incoming<P, I, C>
where
    P: Protocol,
    I: Io + 'static,
    C: Checkin<Connection<P, I>>,
{
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        let segment = match ready!(self.poll_next(cx)) {
            Ok(segment) => segment,
            Err(cause) => {
                self.exchange = None;
                return Poll::Ready(Some(Err(cause.into_error())));
            }
        };
        if let Some(remaining) = &mut self.remaining {
            *remaining -= segment.as_ref().map_or(0, Segment::len);
        }
        match &segment {
            Some(Segment::Bytes(_) | Segment::File(_)) => {}
            Some(Segment::Pipe(_)) => self.finish_if_complete(),
            Some(Segment::Trailers(_)) | None => self.finish(),
        }
        Poll::Ready(segment.map(Ok))
    }

    fn accept_pipes(&mut self, budget: &Budget) {
        let Some((connection, _)) = &self.exchange else { return };
        let State { core, input, io, .. } = &*connection.state;
        let is_used = io.can_splice() && core.unframed_body() >= input.len() as u64 + MIN_SPLICED;
        self.pipes = if is_used { Pipes::Used(budget.clone()) } else { Pipes::Unused };
    }

    fn is_end(&self) -> bool {
        self.exchange.is_none() && self.first.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
