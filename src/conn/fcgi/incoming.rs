//! `Incoming`: the body of a response, which owns the connection and reads from it when polled.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{
    Cause, Connection,
    upload::{Upload, pump},
};
use crate::{
    conn::Checkin,
    error::BoxError,
    net::{Io, clock},
    proto::fcgi::Event,
};

/// The body of a response. It owns the connection, and checks it in at its end. Dropped before its end, it
/// closes the connection, so that the rest is never read as the response to another request.
pub(super) struct Incoming<I, C> {
    exchange: Option<(Connection<I>, C)>,
    /// The unsent part of the request's body: the application may respond before the request is complete.
    upload: Option<Upload>,
    /// The part of the body that arrived with the head.
    first: Bytes,
    /// The remaining bytes of the body, if known.
    remaining: Option<u64>,
}

impl<I: Io, C: Checkin<Connection<I>>> Incoming<I, C> {
    /// Creates a body of `first` and then `remaining` further bytes.
    pub(super) fn new(
        connection: Connection<I>,
        checkin: C,
        upload: Option<Upload>,
        first: Bytes,
        remaining: Option<u64>,
    ) -> Self {
        let remaining = remaining.map(|n| n + first.len() as u64);
        Self { exchange: Some((connection, checkin)), upload, first, remaining }
    }

    /// Polls for the next piece of the body; `None` at its end.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Cause>> {
        if !self.first.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.first))));
        }
        let Some((connection, _)) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        let now = clock::now();
        let state = &mut *connection.state;
        loop {
            match state.recv(now)? {
                Some(Event::Data(data)) => return Poll::Ready(Ok(Some(data))),
                Some(Event::End { .. }) => return Poll::Ready(Ok(None)),
                _ => {}
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
                    state.core.disable_keep_alive();
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
                    state.core.recv_eof()?;
                    return Poll::Ready(Err(Cause::Closed));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
            }
        }
    }
}

impl<I: Io, C: Checkin<Connection<I>>> http_body::Body for Incoming<I, C>
where
    I: 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(self.poll_data(cx)) {
            Ok(Some(data)) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining -= data.len() as u64;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Ok(None) => {
                if let Some((connection, checkin)) = self.exchange.take()
                    && connection.is_reusable()
                {
                    checkin.checkin(connection, clock::now());
                }
                Poll::Ready(None)
            }
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
