//! The steps of an exchange: head, admission, call, response, and how it ends.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request, response};
use http_body::Body as _;
use tower_service::Service;

use super::{Connection, Stage, Step, later};
use crate::{
    body::{self, Body},
    error::BoxError,
    net::{Io, clock},
    proto::h1::Event,
};

impl<I, S, B> Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Takes the exchange one step further.
    pub(super) fn step(&mut self, now: Instant, cx: &mut Context<'_>) -> Step {
        match &mut self.stage {
            Stage::Head => self.step_head(now, cx),
            Stage::Admit(..) => self.step_admit(cx),
            Stage::Call(future) => match future.as_mut().poll(cx) {
                Poll::Pending => Step::Wait,
                Poll::Ready(Ok(response)) => {
                    self.respond(now, cx, response);
                    Step::Again
                }
                Poll::Ready(Err(error)) => self.give_up(&error.into()),
            },
            Stage::Respond(_) => self.step_respond(now, cx),
            Stage::Drain(_) => self.step_drain(now),
            Stage::Close { .. } if !self.output.is_empty() => Step::Wait,
            Stage::Close { linger } => {
                let linger = *linger;
                self.poll_close(now, cx, linger)
            }
            Stage::Linger(..) | Stage::End => Step::Wait,
        }
    }

    fn step_head(&mut self, now: Instant, cx: &mut Context<'_>) -> Step {
        match self.core.recv(now, &mut self.input) {
            Ok(Some(Event::Head(parts))) => return self.open(now, cx, parts),
            Ok(Some(Event::Data(_) | Event::End(_))) => unreachable!("no body is under way"),
            Ok(None) if self.core.is_closed() => self.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Err(fault) => {
                tracing::debug!(peer = %self.peer, %fault, "refused");
                self.refuse(fault.status());
            }
        }
        Step::Again
    }

    fn open(&mut self, now: Instant, cx: &mut Context<'_>, parts: request::Parts) -> Step {
        let body = match self.open_body(now) {
            Ok(body) => body,
            Err(fault) => {
                self.refuse(fault.status());
                return Step::Again;
            }
        };
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(self.peer.clone());
        match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.stage = Stage::Call(Box::pin(self.service.call(request))),
            Poll::Ready(Err(error)) => return self.give_up(&error.into()),
            Poll::Pending => {
                let until = later(now, self.config.ready_timeout);
                self.stage = Stage::Admit(Box::new(request), until);
                return Step::Wait;
            }
        }
        Step::Again
    }

    fn step_admit(&mut self, cx: &mut Context<'_>) -> Step {
        match self.service.poll_ready(cx) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(Err(error)) => return self.give_up(&error.into()),
            Poll::Ready(Ok(())) => {}
        }
        if let Stage::Admit(request, _) = std::mem::replace(&mut self.stage, Stage::End) {
            self.stage = Stage::Call(Box::pin(self.service.call(*request)));
        }
        Step::Again
    }

    /// A service that returns errors has no table under it that turns them into responses.
    fn give_up(&mut self, error: &BoxError) -> Step {
        tracing::error!(peer = %self.peer, error = &**error as &dyn std::error::Error, "service failed");
        self.refuse(StatusCode::INTERNAL_SERVER_ERROR);
        Step::Again
    }

    /// Begins the response; one whose body is in one piece is complete with it.
    fn respond(&mut self, now: Instant, cx: &Context<'_>, response: Response<B>) {
        let (parts, body) = response.into_parts();
        let body = Body::new(body);
        self.consider_closing(cx);
        if let Err(misuse) = self.send_head(now, &parts, body.len()) {
            tracing::error!(peer = %self.peer, %misuse, status = %parts.status, "response refused");
            self.refuse(StatusCode::INTERNAL_SERVER_ERROR);
            return;
        }
        self.open_ended = self.core.ends_with_close();
        if self.core.sends_no_body() {
            return self.finish(now, None);
        }
        let sent = match body.into_kind() {
            body::Kind::Empty => Ok(()),
            body::Kind::Bytes(bytes) => self.send_piece(bytes),
            body::Kind::File(file) => {
                let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
                self.core.send_data(len, self.output.head()).map(|_| self.output.push_file(file))
            }
            streamed => {
                self.stage = Stage::Respond(streamed.into());
                return;
            }
        };
        match sent {
            Ok(()) => self.finish(now, None),
            Err(misuse) => self.cut(&misuse.into()),
        }
    }

    /// An unread body that is too large to be dropped costs the connection, and the client is told
    /// so in the head.
    fn consider_closing(&mut self, cx: &Context<'_>) {
        if self.upload.as_ref().is_some_and(|s| s.poll_ready(cx) == Poll::Ready(Err(body::Gone))) {
            self.upload = None;
        }
        let unread = self.upload.is_none() && self.core.reads_body();
        if unread && self.core.body_left().is_none_or(|n| n > self.config.drain_bytes) {
            self.core.close_after();
        }
    }

    fn send_head(
        &mut self,
        now: Instant,
        parts: &response::Parts,
        length: Option<u64>,
    ) -> Result<(), crate::proto::h1::Misuse> {
        let (core, out) = (&mut self.core, self.output.head());
        clock::with_date_line(|date| {
            core.send_head(now, parts.status, &parts.headers, length, date, out)
        })
    }

    fn send_piece(&mut self, piece: Bytes) -> Result<(), crate::proto::h1::Misuse> {
        let tail = self.core.send_data(piece.len(), self.output.head())?;
        self.output.push(piece, tail);
        Ok(())
    }

    fn step_respond(&mut self, now: Instant, cx: &mut Context<'_>) -> Step {
        let Stage::Respond(body) = &mut self.stage else { return Step::Again };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(None) => self.finish(now, None),
            Poll::Ready(Some(Err(error))) => self.cut(&error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    if let Err(misuse) = self.send_piece(data) {
                        self.cut(&misuse.into());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    self.finish(now, trailers.as_ref());
                }
            },
        }
        Step::Again
    }

    /// The response is complete: on to the next request, or not.
    fn finish(&mut self, now: Instant, trailers: Option<&HeaderMap>) {
        if let Err(misuse) = self.core.send_end(now, trailers, self.output.end()) {
            return self.cut(&misuse.into());
        }
        self.stage = if self.core.is_idle() {
            Stage::Head
        } else if self.core.is_closed() {
            // What the client has sent behind it, or is sending, would reset the connection, and
            // take the response along.
            Stage::Close { linger: !self.ended && (self.faulted || !self.input.is_empty()) }
        } else if !self.open_ended && (self.upload.is_some() || self.core.keeps_alive()) {
            // Somebody still reads the request, or nobody will and there is not much of it.
            Stage::Drain(self.config.drain_bytes)
        } else {
            Stage::Close { linger: true }
        };
        if !matches!(self.stage, Stage::Drain(_)) {
            self.upload = None;
        }
    }

    /// The response cannot be completed: the connection ends in the middle of it, so that nobody
    /// takes it for whole.
    fn cut(&mut self, error: &BoxError) {
        tracing::warn!(peer = %self.peer, error = &**error as &dyn std::error::Error, "response cut");
        self.upload = None;
        self.stage = Stage::Close { linger: false };
    }

    fn step_drain(&mut self, now: Instant) -> Step {
        let Stage::Drain(left) = &mut self.stage else { return Step::Again };
        if self.upload.is_some() {
            return Step::Wait; // it is pumped
        }
        if self.core.is_idle() {
            self.stage = Stage::Head;
            return Step::Again;
        }
        match self.core.recv(now, &mut self.input) {
            Ok(None) if self.core.is_closed() => self.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Ok(Some(Event::Data(data))) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => self.stage = Stage::Close { linger: true },
            },
            Ok(Some(Event::End(_))) if self.core.is_idle() => self.stage = Stage::Head,
            Ok(Some(Event::End(_) | Event::Head(_))) => self.stage = Stage::Close { linger: false },
            // The response is out and the request was read in vain: nothing to answer.
            Err(_) => self.stage = Stage::Close { linger: true },
        }
        Step::Again
    }

    /// Answers in place of the service, and closes. A response that has begun is cut instead.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.upload = None;
        let core = &mut self.core;
        let linger = self.output.has_room() && {
            let out = self.output.head();
            clock::with_date_line(|date| core.send_last(status, date, out))
        };
        self.stage = Stage::Close { linger };
    }
}
