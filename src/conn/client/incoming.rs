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
    /// The last time when bytes of the response were read.
    last_read: Instant,
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
    /// Creates a body of `first`, which was read at `now`, and the data that follows on the connection.
    pub(super) fn new(
        connection: Connection<P, I>,
        checkin: C,
        upload: Option<Upload>,
        first: Bytes,
        now: Instant,
    ) -> Self {
        let remaining = connection.state.core.remaining_body().map(|n| n + first.len() as u64);
        Self {
            exchange: Some((connection, checkin)),
            upload,
            first,
            remaining,
            last_read: now,
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
            poll_upload(state, &mut self.upload, now, cx);
            match poll_read(state, &self.pipes, now, cx) {
                Poll::Pending if state.poll_expired(cx, now, None, Some(self.last_read)) => {
                    return Poll::Ready(Err(Cause::Timeout));
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Read::Input(0))) => {
                    return Poll::Ready(match state.core.recv_eof(now).map_err(Cause::Fault)? {
                        Some(Event::End(trailers)) => Ok(trailers.map(Segment::Trailers)),
                        _ => Err(Cause::Closed),
                    });
                }
                Poll::Ready(Ok(Read::Input(_))) => self.last_read = now,
                Poll::Ready(Ok(Read::Pipe(pipe))) => {
                    self.last_read = now;
                    return Poll::Ready(Ok(Some(Segment::Pipe(pipe))));
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
            }
        }
    }

    /// Ends the body, which has arrived, and checks in the connection if it can be reused.
    fn finish(&mut self) {
        let Some((connection, checkin)) = self.exchange.take() else { return };
        if connection.is_reusable() {
            return checkin.checkin(connection, clock::now());
        }
        drop(connection); // before what `checkin` holds of the pool
        drop(checkin);
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

/// Sends the rest of the request as far as possible.
fn poll_upload<P: Protocol, I: Io>(
    state: &mut State<P, I>,
    upload: &mut Option<Upload>,
    now: Instant,
    cx: &mut Context<'_>,
) {
    while upload.is_some() || !state.output.is_empty() {
        state.output.borrow_buffer();
        let pumped = pump(state, upload, now, cx);
        let had_room = state.output.has_room();
        // A request that can no longer be written does not invalidate its response.
        let flushed = pumped.map(|()| state.poll_flush(cx, now));
        state.output.return_buffer();
        if !matches!(flushed, Ok(Poll::Pending | Poll::Ready(Ok(())))) {
            *upload = None;
            state.output.clear();
            state.core.abandon_body();
        }
        if had_room || upload.is_none() || !state.output.is_empty() {
            return;
        }
        // The pump has stopped at a full output, and no waker is registered for it.
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

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some((connection, _)) = &mut self.exchange {
            poll_upload(&mut connection.state, &mut self.upload, clock::now(), cx);
        }
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

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{Arc, Mutex},
        task::Waker,
    };

    use http::Request;
    use http_body_util::BodyExt;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

    use super::*;
    use crate::{
        Body, BoxError,
        conn::{SingleUse, h1::client},
    };

    /// Stands for the slot of a pool. When it is dropped, it records whether the server's end sees the connection closed.
    #[derive(Clone, Default)]
    struct Slot(Arc<Mutex<(Option<DuplexStream>, Option<bool>)>>);

    impl Drop for Slot {
        fn drop(&mut self) {
            let (far, was_closed) = &mut *self.0.lock().unwrap();
            if let Some(mut far) = far.take() {
                let (mut space, mut cx) = ([0; 64], Context::from_waker(Waker::noop()));
                let mut buf = ReadBuf::new(&mut space);
                let read = Pin::new(&mut far).poll_read(&mut cx, &mut buf);
                *was_closed = Some(read.is_ready() && buf.filled().is_empty());
            }
        }
    }

    impl Checkin<client::Connection<DuplexStream>> for Slot {
        fn checkin(self, _: client::Connection<DuplexStream>, _: Instant) {
            unreachable!("the server closes the connection");
        }
    }

    #[tokio::test]
    async fn connection_closes_before_the_slot_of_its_pool_is_released() {
        let (near, mut far) = duplex(1 << 10);
        let state = Arc::default();
        let connection = client::Connection::new(near, Arc::default());
        let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
        let exchange = tokio::spawn(connection.exchange(request, Slot(Arc::clone(&state))));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut head).await.unwrap();
        }
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\n";
        far.write_all(head).await.unwrap();
        let response = exchange.await.unwrap().unwrap();
        far.write_all(b"body").await.unwrap();
        state.lock().unwrap().0 = Some(far);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "body");
        assert_eq!(state.lock().unwrap().1, Some(true));
    }

    #[tokio::test]
    async fn body_that_was_held_back_is_returned_with_a_failed_request() {
        let (near, mut far) = duplex(1 << 10);
        let connection = client::Connection::new(near, Arc::default());
        let piece = tokio_stream::iter([Ok::<_, BoxError>(Bytes::from("body"))]);
        let request = Request::put("/").header("host", "a").header("expect", "100-continue");
        let request = request.body(Body::from_stream(piece)).unwrap();
        let exchange = tokio::spawn(connection.exchange(request, SingleUse));
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut head).await.unwrap();
        }
        drop(far);
        let error = exchange.await.unwrap().unwrap_err();
        let body = error.request.unwrap().into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
    }
}
