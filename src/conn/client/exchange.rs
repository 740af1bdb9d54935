//! `Exchange`: sends a request and waits for the head of its response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, request, response};

use super::{
    Cause, Connection, ExchangeError, Protocol,
    incoming::Incoming,
    upload::{Upload, pump},
};
use crate::{
    body::Body,
    conn::{Checkin, Delivery, head_pool},
    net::{Io, clock},
    peer::Deadline,
    proto::h1::Event,
};

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
    /// The part of the body that has not been passed to the connection.
    upload: Option<Upload>,
    /// A copy of the whole body, if it can be sent twice.
    replay: Option<Body>,
    /// The request's own deadline.
    deadline: Option<Instant>,
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
            pump(state, &mut self.upload, now, cx)?;
            let had_room = state.output.has_room();
            // A write may fail because the server has responded and closed. Its response can still be read,
            // so the write error counts only if there is no response.
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
                    if let Some(Event::Head(head)) = event {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
                Poll::Pending => match broken {
                    Some(cause) => return Poll::Ready(Err(cause)),
                    None => return self.poll_expired(now, cx).map(Err),
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
        self.progress = Progress::Encoded;
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<std::io::Result<()>> {
        let state = &mut *self.connection.state;
        let before = state.output.written();
        let result = state.poll_flush(cx, now);
        if self.progress == Progress::Encoded && state.output.written() > before {
            self.progress = Progress::Written;
        }
        result
    }

    fn poll_expired(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Cause<P>> {
        if !self.connection.state.poll_expired(cx, now, self.deadline) {
            return Poll::Pending;
        }
        let is_deadline = self.deadline.is_some_and(|deadline| deadline <= clock::now());
        Poll::Ready(if is_deadline { Cause::Deadline } else { Cause::Timeout })
    }

    /// Returns the response. Its body owns the connection, unless the body is already complete.
    fn respond(self, now: Instant, parts: response::Parts) -> Result<Response<Body>, Cause<P>> {
        let Self { mut connection, checkin, upload, parts: request, .. } = self;
        head_pool::release(request);
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
        let delivery = if self.progress >= Progress::Written {
            Delivery::MaybeSent
        } else {
            Delivery::NotSent
        };
        let has_answer = self.progress == Progress::Answered;
        let body = match self.progress {
            Progress::New => self.upload.map(Upload::into_body),
            Progress::Encoded | Progress::Written => self.replay,
            Progress::Answered => None,
        };
        if self.progress == Progress::New && self.connection.is_reusable() {
            self.checkin.checkin(self.connection, now);
        }
        let request = body.map(|body| Box::new(Request::from_parts(self.parts, body)));
        ExchangeError { cause, delivery, has_answer, request }
    }
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

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Future for Exchange<P, I, C> {
    type Output = Result<Response<Body>, ExchangeError<P>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.inner.as_mut().expect("not polled again after it has ended");
        inner.connection.state.output.borrow_buffer();
        let now = clock::now();
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

impl<P: Protocol, I, C> Unpin for Exchange<P, I, C> {}

impl<P: Protocol, I, C> fmt::Debug for Exchange<P, I, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
