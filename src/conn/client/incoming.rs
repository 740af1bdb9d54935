//! `Incoming`: the body of a response, which owns the connection and reads from it when polled.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{
    Cause, Connection, Protocol,
    upload::{Upload, pump},
};
use crate::{
    conn::Checkin,
    error::BoxError,
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
        Self { exchange: Some((connection, checkin)), upload, first, remaining }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event<()>, Cause<P>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Event::Data(std::mem::take(&mut self.first))));
        }
        let Some((connection, _)) = &mut self.exchange else {
            return Poll::Ready(Ok(Event::End(None)));
        };
        let now = clock::now();
        let state = &mut *connection.state;
        loop {
            match state.core.recv(now, &mut state.input).map_err(Cause::Fault)? {
                Some(Event::Data(data)) => return Poll::Ready(Ok(Event::Data(data))),
                Some(Event::End(trailers)) => return Poll::Ready(Ok(Event::End(trailers))),
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
            match state.poll_read(cx) {
                Poll::Pending if state.poll_expired(cx, now, None) => {
                    return Poll::Ready(Err(Cause::Timeout));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(match state.core.recv_eof(now).map_err(Cause::Fault)? {
                        Some(Event::End(trailers)) => Ok(Event::End(trailers)),
                        _ => Err(Cause::Closed),
                    });
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
            }
        }
    }
}

impl<P, I, C> http_body::Body for Incoming<P, I, C>
where
    P: Protocol,
    I: Io + 'static,
    C: Checkin<Connection<P, I>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(self.poll_event(cx)) {
            Ok(Event::Data(data)) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining -= data.len() as u64;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(Event::End(trailers)) => {
                if let Some((connection, checkin)) = self.exchange.take()
                    && connection.is_reusable()
                {
                    checkin.checkin(connection, clock::now());
                }
                Poll::Ready(trailers.map(|t| Ok(Frame::trailers(t))))
            }
            Ok(Event::Head(())) => unreachable!("a body is under way"),
            Err(cause) => {
                self.exchange = None;
                Poll::Ready(Some(Err(cause.into_error())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none() && self.first.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
