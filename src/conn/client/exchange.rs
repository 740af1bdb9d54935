//! `Exchange`: sends a request and waits for the head of its response.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, request, response};

use super::{
    Cause, Connection, ExchangeError, Parts, Protocol,
    incoming::Incoming,
    upload::{Upload, pump},
};
use crate::{
    body::Body,
    conn::{
        Checkin, Delivery, InterimResponses, head_pool,
        upgrade::{self, Upgraded},
        websocket,
    },
    net::{Io, clock},
    peer::Deadline,
    proto::h1::Event,
    semantics::gateway,
};

/// Time that a server has to answer `Expect: 100-continue`: 1 s, as in curl. After it the body is sent, since old
/// servers do not answer (RFC 9110 section 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The future of [`Connection::exchange_with`].
///
/// It is not boxed; the caller may box it.
pub struct Exchange<P: Protocol, I, C> {
    /// `None` once it has ended.
    inner: Option<Inner<P, I, C>>,
}

struct Inner<P: Protocol, I, C> {
    connection: Connection<P, I>,
    checkin: C,
    parts: request::Parts,
    extra: P::Extra,
    /// The part of the body that was not passed to the connection.
    upload: Option<Upload>,
    /// A copy of the complete body, if it can be sent twice.
    replay: Option<Body>,
    /// The request's deadline.
    deadline: Option<Instant>,
    /// The end of the time in which the body is held back for the answer to `Expect`.
    held_until: Option<Instant>,
    progress: Progress,
}

/// The progress of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// The request and its body are unchanged.
    New,
    /// The head is encoded, and perhaps a part of the body; nothing has been written.
    Encoded,
    /// At least a byte has been written.
    Written,
    /// At least a byte of the response has been read.
    Answered,
}

impl<P: Protocol, I: Io, C: Checkin<Connection<P, I>>> Exchange<P, I, C> {
    pub(super) fn new(
        mut connection: Connection<P, I>,
        request: Request<Body>,
        extra: P::Extra,
        checkin: C,
    ) -> Self {
        connection.state.exchanges += 1;
        connection.state.core.begin_request(&request);
        let (parts, body) = request.into_parts();
        let inner = Inner {
            connection,
            checkin,
            deadline: parts.extensions.get::<Deadline>().map(|deadline| deadline.0),
            parts,
            extra,
            replay: body.replay(),
            upload: Some(Upload::new(body)),
            held_until: None,
            progress: Progress::New,
        };
        Self { inner: Some(inner) }
    }
}

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Inner<P, I, C> {
    fn poll_head(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Cause<P>>> {
        if self.progress == Progress::New {
            self.encode_request(now)?;
        }
        loop {
            let state = &mut *self.connection.state;
            if !state.core.awaits_continue() {
                self.held_until = None;
            }
            if self.held_until.is_none() {
                pump(state, &mut self.upload, now, cx)?;
            }
            let had_room = state.output.has_room();
            // A write may fail because the server has responded and closed the connection. Its response can still be
            // read, so the error counts only if there is none.
            let mut broken = None;
            match self.poll_flush(cx, now) {
                Poll::Ready(Ok(())) if !had_room && self.upload.is_some() => continue,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(e)) => broken = Some(Cause::Io(e)),
            }
            let state = &mut *self.connection.state;
            match state.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    if self.progress == Progress::Answered {
                        state.core.recv_eof(now).map_err(Cause::Fault)?;
                    }
                    return Poll::Ready(Err(Cause::Closed));
                }
                Poll::Ready(Ok(_)) => {
                    self.progress = Progress::Answered;
                    let event = state.core.recv(now, &mut state.input).map_err(Cause::Fault)?;
                    self.relay_interim();
                    if let Some(Event::Head(head)) = event {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
                Poll::Pending => match broken {
                    Some(cause) => return Poll::Ready(Err(cause)),
                    None => match ready!(self.poll_expired(now, cx)) {
                        Some(cause) => return Poll::Ready(Err(cause)),
                        None => self.held_until = None,
                    },
                },
            }
        }
    }

    fn encode_request(&mut self, now: Instant) -> Result<(), Cause<P>> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Cause::Deadline);
        }
        let length = self.upload.as_ref().map_or(Some(0), Upload::len);
        let state = &mut *self.connection.state;
        let (core, out) = (&mut state.core, state.output.head());
        core.send_request(now, &self.parts, &self.extra, length, out).map_err(Cause::Misuse)?;
        if core.awaits_continue() {
            self.held_until = now.checked_add(CONTINUE_TIMEOUT);
        }
        self.progress = Progress::Encoded;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let state = &mut *self.connection.state;
        let before = state.output.written();
        let result = state.poll_flush(cx, now);
        if self.progress == Progress::Encoded && state.output.written() > before {
            self.progress = Progress::Written;
        }
        result
    }

    /// Forwards interim responses, without hop-by-hop fields.
    fn relay_interim(&mut self) {
        while let Some(mut head) = self.connection.state.core.take_interim() {
            if let Some(receiver) = self.parts.extensions.get::<InterimResponses>() {
                gateway::prepare_response(&mut head.headers);
                let _ = receiver.send(head.status, head.headers); // those beyond the bound are dropped
            }
        }
    }

    /// Ready when a timeout has passed: with a cause that of the exchange, without one that of the held body.
    fn poll_expired(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Option<Cause<P>>> {
        let until = [self.deadline, self.held_until].into_iter().flatten().min();
        if !self.connection.state.poll_expired(cx, now, until) {
            return Poll::Pending;
        }
        let later = clock::now();
        let has_passed = |time: Option<Instant>| time.is_some_and(|time| time <= later);
        Poll::Ready(if has_passed(self.deadline) {
            Some(Cause::Deadline)
        } else if has_passed(self.held_until) {
            None
        } else {
            Some(Cause::Timeout)
        })
    }

    /// Returns the response. Its body owns the connection, unless the body is already complete.
    fn respond(self, now: Instant, parts: response::Parts) -> Result<Response<Body>, Cause<P>> {
        let Self { mut connection, checkin, mut upload, parts: request, held_until, .. } = self;
        if connection.state.core.has_switched() {
            if !websocket::agrees(&request.headers, &parts.headers) {
                let wrong = "the server's Sec-WebSocket-Accept is not that of the key";
                return Err(Cause::Io(io::Error::new(io::ErrorKind::InvalidData, wrong)));
            }
            return switch(connection, checkin, parts);
        }
        head_pool::release(request);
        if held_until.is_some() {
            // The server has answered without the body, so it does not need it.
            upload = None;
            connection.state.core.abandon_body();
        }
        let mut buffered = BufferedBody::default();
        loop {
            let state = &mut *connection.state;
            let event = if state.core.may_hold_body(&state.input) {
                state.core.recv(now, &mut state.input).map_err(Cause::Fault)?
            } else {
                None
            };
            match event {
                Some(Event::Data(data)) => buffered.push(data),
                Some(Event::End(_)) => break,
                Some(Event::Head(_)) | None => {
                    let incoming = Incoming::new(connection, checkin, upload, buffered.finish());
                    return Ok(Response::from_parts(parts, Body::new(incoming)));
                }
            }
        }
        if connection.is_reusable() {
            checkin.checkin(connection, now);
        }
        Ok(Response::from_parts(parts, buffered.finish().into()))
    }

    fn fail(self, now: Instant, cause: Cause<P>) -> ExchangeError<P> {
        let delivery = match self.progress {
            Progress::New | Progress::Encoded => Delivery::NotSent,
            Progress::Written => Delivery::MaybeSent,
            Progress::Answered => Delivery::Answered,
        };
        let body = match self.progress {
            Progress::New => self.upload.map(Upload::into_body),
            Progress::Encoded | Progress::Written => self.replay,
            Progress::Answered => None,
        };
        if self.progress == Progress::New && self.connection.is_reusable() {
            self.checkin.checkin(self.connection, now);
        }
        let request = body.map(|body| Box::new(Request::from_parts(self.parts, body)));
        ExchangeError { cause, delivery, request }
    }
}

/// Returns a response of 101 with the stream. Its body holds `checkin`, and what that holds of the pool, until it is
/// dropped.
fn switch<P: Protocol, I: Io + 'static, C: Send + 'static>(
    connection: Connection<P, I>,
    checkin: C,
    parts: response::Parts,
) -> Result<Response<Body>, Cause<P>> {
    if !connection.state.output.is_empty() {
        // The server has not received the request that it agrees to.
        return Err(Cause::Io(io::ErrorKind::InvalidData.into()));
    }
    let Parts { io, read_ahead } = connection.into_parts();
    let mut response = Response::from_parts(parts, upgrade::open_body(checkin));
    upgrade::put_stream(&mut response, Upgraded::new(io, read_ahead));
    Ok(response)
}

/// The part of a body that arrived with the head: usually one piece, which is not copied.
#[derive(Default)]
struct BufferedBody {
    first: Bytes,
    more: BytesMut,
}

impl BufferedBody {
    fn push(&mut self, data: Bytes) {
        if self.first.is_empty() {
            self.first = data;
            return;
        }
        if self.more.is_empty() {
            self.more.extend_from_slice(&self.first);
        }
        self.more.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        if self.more.is_empty() { self.first } else { self.more.freeze() }
    }
}

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Exchange<P, I, C> {
    /// Polls the exchange at `now`, for a caller that has just read the clock.
    pub(crate) fn poll_at(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, ExchangeError<P>>> {
        let inner = self.inner.as_mut().expect("not polled again after it has ended");
        inner.connection.state.output.borrow_buffer();
        let result = inner.poll_head(now, cx);
        inner.connection.state.output.return_buffer();
        let Poll::Ready(result) = result else { return Poll::Pending };
        let inner = self.inner.take().expect("just polled");
        Poll::Ready(match result {
            Ok(parts) => inner.respond(now, parts).map_err(ExchangeError::after_answer),
            Err(cause) => Err(inner.fail(now, cause)),
        })
    }
}

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Future for Exchange<P, I, C> {
    type Output = Result<Response<Body>, ExchangeError<P>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_at(clock::now(), cx)
    }
}

impl<P: Protocol, I, C> Unpin for Exchange<P, I, C> {}

impl<P: Protocol, I, C> fmt::Debug for Exchange<P, I, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
