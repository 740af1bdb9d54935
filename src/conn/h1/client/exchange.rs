//! A request on its way out, until the head of its response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response, request, response};

use super::{Cause, Connection, Failed, Home, State, incoming::Incoming, upload::pump};
use crate::{
    body::Body,
    net::{Io, clock},
    proto::h1::Event,
};

/// The future of [`Connection::exchange`].
pub struct Exchange<I, H> {
    /// `None` once it has ended.
    inner: Option<Box<Inner<I, H>>>,
}

struct Inner<I, H> {
    connection: Connection<I>,
    home: H,
    parts: request::Parts,
    /// What of the body has not been handed to the connection.
    upload: Option<Body>,
    /// The whole body, if it can be sent again.
    again: Option<Bytes>,
    prepared: BytesMut,
    begun: bool,
    /// A byte of the response has come.
    answered: bool,
}

impl<I: Io, H: Home<I>> Exchange<I, H> {
    pub(super) fn new(
        connection: Connection<I>,
        request: Request<Body>,
        prepared: BytesMut,
        home: H,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let again = body.as_bytes();
        Self {
            inner: Some(Box::new(Inner {
                connection,
                home,
                parts,
                upload: Some(body),
                again,
                prepared,
                begun: false,
                answered: false,
            })),
        }
    }
}

impl<I: Io + 'static, H: Home<I>> Inner<I, H> {
    fn poll_head(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Cause>> {
        if !self.begun {
            self.begun = true;
            self.begin(now)?;
        }
        let state = &mut *self.connection.state;
        loop {
            pump(state, &mut self.upload, now, cx)?;
            let room = state.output.has_room();
            // A write may fail because the server has answered and closed: its answer is still
            // there to be read, so the failure counts only if there is none.
            let mut broken = None;
            match state.poll_flush(cx, now) {
                Poll::Ready(Ok(())) if !room && self.upload.is_some() => continue,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(e)) => broken = Some(e),
            }
            match state.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    if self.answered {
                        state.core.recv_eof(now)?;
                    }
                    return Poll::Ready(Err(Cause::Closed));
                }
                Poll::Ready(Ok(_)) => {
                    self.answered = true;
                    if let Some(Event::Head(head)) = state.core.recv(now, &mut state.input)? {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e.into())),
                Poll::Pending => match broken {
                    Some(e) => return Poll::Ready(Err(e.into())),
                    None if state.poll_expired(cx, now) => {
                        return Poll::Ready(Err(Cause::Timeout));
                    }
                    None => return Poll::Pending,
                },
            }
        }
    }

    fn begin(&mut self, now: Instant) -> Result<(), Cause> {
        let length = self.upload.as_ref().map_or(Some(0), Body::len);
        let State { core, output, .. } = &mut *self.connection.state;
        core.send_head(
            now,
            &self.parts.method,
            &self.parts.uri,
            &self.parts.headers,
            length,
            &self.prepared,
            output.head(),
        )?;
        Ok(())
    }

    /// The response with its body, and the connection inside it, unless it is complete already.
    #[allow(clippy::boxed_local, reason = "what it needs is moved straight out of the box")]
    fn respond(
        self: Box<Self>,
        now: Instant,
        parts: response::Parts,
    ) -> Result<Response<Body>, Cause> {
        let Self { mut connection, home, upload, .. } = *self;
        let State { core, input, .. } = &mut *connection.state;
        let left = core.body_left();
        if left.is_none_or(|left| left > input.len() as u64) {
            let incoming = Incoming::new(connection, home, upload, left);
            return Ok(Response::from_parts(parts, Body::new(incoming)));
        }
        let mut body = Bytes::new();
        loop {
            match core.recv(now, input)? {
                Some(Event::Data(data)) => body = data,
                Some(Event::End(_)) => break,
                Some(Event::Head(_)) | None => return Err(Cause::Closed),
            }
        }
        if connection.is_reusable() {
            home.back(connection, now);
        }
        Ok(Response::from_parts(parts, body.into()))
    }

    #[allow(clippy::boxed_local, reason = "what it needs is moved straight out of the box")]
    fn fail(self: Box<Self>, cause: Cause) -> Failed {
        let request = match self.again {
            Some(body) if !self.answered => {
                let request = Request::from_parts(self.parts, body.into());
                Some(Box::new((request, self.prepared)))
            }
            _ => None,
        };
        Failed { cause, request }
    }
}

impl<I: Io + 'static, H: Home<I>> Future for Exchange<I, H> {
    type Output = Result<Response<Body>, Failed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.inner.as_mut().expect("not polled again after it has ended");
        inner.connection.state.output.borrow_buffer();
        let now = clock::now();
        let result = inner.poll_head(now, cx);
        inner.connection.state.output.return_buffer();
        let Poll::Ready(result) = result else { return Poll::Pending };
        let inner = self.inner.take().expect("just polled");
        Poll::Ready(match result {
            Ok(parts) => inner.respond(now, parts).map_err(|cause| Failed { cause, request: None }),
            Err(cause) => Err(inner.fail(cause)),
        })
    }
}

impl<I, H> fmt::Debug for Exchange<I, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("ended", &self.inner.is_none()).finish_non_exhaustive()
    }
}
