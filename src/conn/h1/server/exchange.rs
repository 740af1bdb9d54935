//! The steps of an exchange: head, admission, call, response, and how it ends.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request, response};
use tower_service::Service;

use super::{
    busy::{Busy, Stage},
    link::{Link, Step, later},
};
use crate::{
    body::{self, Body, FileSlice, Stretch},
    error::BoxError,
    net::{Io, clock},
    proto::h1::{Event, Misuse},
    spare,
};

impl<I, S, B> Link<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Takes the exchange one step further.
    pub(super) fn step(&mut self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> Step {
        match &mut x.stage {
            Stage::Head => self.step_head(x, now, cx),
            Stage::Admit(..) => self.step_admit(x, now, cx),
            Stage::Call => self.step_call(x, now, cx),
            Stage::Respond(_) => self.step_respond(x, now, cx),
            Stage::Drain(_) => self.step_drain(x, now),
            Stage::Close { .. } if !x.output.is_empty() => Step::Wait,
            Stage::Close { linger } => {
                let linger = *linger;
                self.poll_close(x, now, cx, linger)
            }
            Stage::Linger(..) | Stage::End => Step::Wait,
        }
    }

    fn step_head(&mut self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> Step {
        if x.input.is_empty() && !x.core.is_closed() {
            return Step::Wait; // nothing to ask the core about, twice for each request
        }
        match x.core.recv(now, &mut x.input) {
            Ok(Some(Event::Head(parts))) => return self.open(x, now, cx, parts),
            Ok(Some(Event::Data(_) | Event::End(_))) => unreachable!("no body is under way"),
            Ok(None) if x.core.is_closed() => x.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Err(fault) => {
                tracing::debug!(peer = %self.peer, %fault, "refused");
                self.refuse(x, fault.status());
            }
        }
        Step::Again
    }

    fn open(
        &mut self,
        x: &mut Busy,
        now: Instant,
        cx: &mut Context<'_>,
        mut parts: request::Parts,
    ) -> Step {
        if self.config.budget.is_spent() {
            self.config.budget.count_refused();
            self.refuse(x, StatusCode::SERVICE_UNAVAILABLE);
            return Step::Again;
        }
        let body = match self.open_body(x, now) {
            Ok(body) => body,
            Err(fault) => {
                self.refuse(x, fault.status());
                return Step::Again;
            }
        };
        parts.extensions = spare::extensions(&self.peer);
        match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => self.call(x, now, cx, Request::from_parts(parts, body)),
            Poll::Ready(Err(error)) => self.give_up(x, &error.into()),
            Poll::Pending => {
                let until = later(now, self.config.ready_timeout);
                x.stage = Stage::Admit(Box::new(Request::from_parts(parts, body)), until);
                Step::Wait
            }
        }
    }

    fn step_admit(&mut self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> Step {
        match self.service.poll_ready(cx) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(Err(error)) => return self.give_up(x, &error.into()),
            Poll::Ready(Ok(())) => {}
        }
        x.core.resume(now); // up to here it was the service that was waited for
        match std::mem::replace(&mut x.stage, Stage::End) {
            Stage::Admit(request, _) => self.call(x, now, cx, *request),
            _ => Step::Again,
        }
    }

    fn call(
        &mut self,
        x: &mut Busy,
        now: Instant,
        cx: &mut Context<'_>,
        request: Request<Body>,
    ) -> Step {
        self.call = Some(Box::pin(self.service.call(request)));
        x.stage = Stage::Call;
        x.asked = now;
        if x.upload.is_some() {
            return Step::Again; // what has come of the body is moved first
        }
        self.step_call(x, now, cx)
    }

    fn step_call(&mut self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> Step {
        let call = self.call.as_mut().expect("in this stage there is a call");
        let Poll::Ready(result) = call.as_mut().poll(cx) else { return Step::Wait };
        self.call = None; // what it holds is free before its response is sent
        match result {
            Ok(response) => {
                self.respond(x, now, cx, response);
                Step::Again
            }
            Err(error) => self.give_up(x, &error.into()),
        }
    }

    /// A service that returns errors has no table under it that turns them into responses.
    fn give_up(&mut self, x: &mut Busy, error: &BoxError) -> Step {
        tracing::error!(peer = %self.peer, error = &**error as &dyn std::error::Error, "service failed");
        self.refuse(x, StatusCode::INTERNAL_SERVER_ERROR);
        Step::Again
    }

    /// Begins the response; one whose body is in one piece is complete with it.
    fn respond(&mut self, x: &mut Busy, now: Instant, cx: &Context<'_>, response: Response<B>) {
        let (parts, body) = response.into_parts();
        let body = Body::new(body);
        self.consider_closing(x, cx);
        if let Err(misuse) = self.send_head(x, now, &parts, body.len()) {
            tracing::error!(peer = %self.peer, %misuse, status = %parts.status, "response refused");
            self.refuse(x, StatusCode::INTERNAL_SERVER_ERROR);
            return;
        }
        x.open_ended = x.core.ends_with_close();
        if x.core.sends_no_body() {
            return self.finish(x, now, None);
        }
        let sent = match body.into_kind() {
            body::Kind::Empty => Ok(()),
            body::Kind::Bytes(bytes) => self.send_piece(x, bytes),
            body::Kind::File(file) => self.send_file(x, file),
            streamed => {
                x.stage = Stage::Respond(streamed.into());
                return;
            }
        };
        match sent {
            Ok(()) => self.finish(x, now, None),
            Err(misuse) => self.cut(x, &misuse.into()),
        }
    }

    /// An unread body that is too large to be dropped costs the connection, and the client is told
    /// so in the head.
    fn consider_closing(&mut self, x: &mut Busy, cx: &Context<'_>) {
        if x.upload.as_ref().is_some_and(|s| s.poll_ready(cx) == Poll::Ready(Err(body::Gone))) {
            x.upload = None;
        }
        let unread = x.upload.is_none() && x.core.reads_body();
        if unread && x.core.body_left().is_none_or(|n| n > self.config.drain_bytes) {
            x.core.close_after();
        }
    }

    fn send_head(
        &mut self,
        x: &mut Busy,
        now: Instant,
        parts: &response::Parts,
        length: Option<u64>,
    ) -> Result<(), Misuse> {
        let (core, out) = (&mut x.core, x.output.head());
        clock::with_date_line(|date| {
            core.send_head(now, parts.status, &parts.headers, length, date, out)
        })
    }

    fn send_piece(&mut self, x: &mut Busy, piece: Bytes) -> Result<(), Misuse> {
        let tail = x.core.send_data(piece.len(), x.output.head())?;
        x.output.push(piece, tail);
        Ok(())
    }

    fn send_file(&mut self, x: &mut Busy, file: FileSlice) -> Result<(), Misuse> {
        let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
        let tail = x.core.send_data(len, x.output.head())?;
        x.output.push_file(file, tail);
        Ok(())
    }

    fn step_respond(&mut self, x: &mut Busy, now: Instant, cx: &mut Context<'_>) -> Step {
        let Stage::Respond(body) = &mut x.stage else { return Step::Again };
        let stretch = match body.poll_stretch(cx) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(None) => {
                self.finish(x, now, None);
                return Step::Again;
            }
            Poll::Ready(Some(Err(error))) => {
                self.cut(x, &error);
                return Step::Again;
            }
            Poll::Ready(Some(Ok(stretch))) => stretch,
        };
        let sent = match stretch {
            Stretch::Bytes(data) => self.send_piece(x, data),
            Stretch::File(file) => self.send_file(x, file),
            Stretch::Trailers(trailers) => {
                self.finish(x, now, Some(&trailers));
                Ok(())
            }
        };
        if let Err(misuse) = sent {
            self.cut(x, &misuse.into());
        }
        Step::Again
    }

    /// The response is complete: on to the next request, or not.
    fn finish(&mut self, x: &mut Busy, now: Instant, trailers: Option<&HeaderMap>) {
        if let Err(misuse) = x.core.send_end(now, trailers, x.output.end()) {
            return self.cut(x, &misuse.into());
        }
        x.stage = if x.core.is_idle() {
            Stage::Head
        } else if x.core.is_closed() {
            // What the client has sent behind it, or is sending, would reset the connection, and
            // take the response along.
            Stage::Close { linger: !x.ended && (x.faulted || !x.input.is_empty()) }
        } else if !x.open_ended && (x.upload.is_some() || x.core.keeps_alive()) {
            // Somebody still reads the request, or nobody will and there is not much of it.
            x.core.resume(now); // up to here it was we who did not read
            Stage::Drain(self.config.drain_bytes)
        } else {
            Stage::Close { linger: true }
        };
        if !matches!(x.stage, Stage::Drain(_)) {
            x.upload = None;
        }
    }

    /// The response cannot be completed: the connection ends in the middle of it, so that nobody
    /// takes it for whole.
    fn cut(&mut self, x: &mut Busy, error: &BoxError) {
        tracing::warn!(peer = %self.peer, error = &**error as &dyn std::error::Error, "response cut");
        x.upload = None;
        x.stage = Stage::Close { linger: false };
    }

    fn step_drain(&mut self, x: &mut Busy, now: Instant) -> Step {
        let Stage::Drain(left) = &mut x.stage else { return Step::Again };
        if x.upload.is_some() {
            return Step::Wait; // it is pumped
        }
        if !x.core.keeps_alive() {
            // Nothing follows, so there is nothing to clear the way for.
            x.stage = Stage::Close { linger: !x.ended && (x.faulted || x.core.reads_body()) };
            return Step::Again;
        }
        if x.core.is_idle() {
            x.stage = Stage::Head;
            return Step::Again;
        }
        match x.core.recv(now, &mut x.input) {
            Ok(None) if x.core.is_closed() => x.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Ok(Some(Event::Data(data))) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => x.stage = Stage::Close { linger: true },
            },
            Ok(Some(Event::End(_))) if x.core.is_idle() => x.stage = Stage::Head,
            Ok(Some(Event::End(_) | Event::Head(_))) => x.stage = Stage::Close { linger: false },
            // The response is out and the request was read in vain: nothing to answer.
            Err(_) => x.stage = Stage::Close { linger: true },
        }
        Step::Again
    }

    /// Answers in place of the service, and closes. A response that has begun is cut instead.
    pub(super) fn refuse(&mut self, x: &mut Busy, status: StatusCode) {
        x.upload = None;
        let core = &mut x.core;
        let linger = x.output.has_room() && {
            let out = x.output.head();
            clock::with_date_line(|date| core.send_last(status, date, out))
        };
        x.stage = Stage::Close { linger };
    }
}
