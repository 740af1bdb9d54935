//! The steps of an exchange: head, admission, call, response and its end.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, StatusCode, Version,
    header::{UPGRADE, VARY},
    request, response,
};

use super::{
    active::{Active, Stage, Upload},
    driver::{Driver, Step, deadline_after},
};
use crate::{
    HttpService, Response,
    body::{self, Body, FileSlice, Pipe, Segment},
    conn::{
        RequestInfo,
        access_log::Entry,
        call::{ServicePanicked, call_service, catch_panic, server_options},
        head_pool, log_error, log_request,
        misdirected::is_misdirected,
        request_log::RequestLine,
        upgrade::Takeover,
    },
    error::{BoxError, Chain, Error},
    net::{Io, clock},
    peer::RequestId,
    proto::{
        h1::{Event, Fault, Misuse},
        h2::PREFACE,
    },
    semantics::{
        problem::{self, Format},
        upgrade::requested,
    },
};

/// The first bytes of a TLS handshake: a record of type 22, version 3 (RFC 8446 section 5.1).
const TLS_HANDSHAKE: [u8; 2] = [22, 3];

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Advances the exchange by one step. A panic of the service is caught here, whichever of its code has panicked:
    /// its readiness, its call, its future or the body of its response.
    pub(super) fn step(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        let waits_for_input = matches!(active.stage, Stage::Head(_)) && active.input.is_empty();
        if waits_for_input && !active.core.is_closed() {
            return Step::Wait; // the last step of almost every poll
        }
        catch_panic(|| self.step_unguarded(active, now, cx)).unwrap_or_else(|panicked| {
            self.handle_panic(active, panicked);
            Step::Again
        })
    }

    /// Answers with 500 in place of a service that has panicked, or aborts the response that has begun, and closes.
    fn handle_panic(&mut self, active: &mut Active, panicked: ServicePanicked) {
        // The destructor of a body may panic when its response is complete.
        if matches!(active.stage, Stage::Respond(_)) || active.core.is_idle() {
            let error = Chain(&panicked);
            log_request!(error, "vestibule::request", &self.request_info(active), %error, "the response was aborted");
            self.abort_response(active);
        } else {
            active.interim = None;
            self.refuse_service_error(active, &panicked.into());
        }
    }

    fn step_unguarded(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        match &mut active.stage {
            Stage::Head(_) => self.step_head(active, now, cx),
            Stage::Admit(..) => self.step_admit(active, now, cx),
            Stage::Call(..) => self.step_call(active, now, cx),
            Stage::Respond(_) => self.step_respond(active, now, cx),
            Stage::Discard(..) => self.step_discard(active, now),
            Stage::Close { .. } if !active.output.is_empty() => Step::Wait,
            Stage::Close { linger } => {
                let linger = *linger;
                self.poll_close(active, now, cx, linger)
            }
            Stage::Linger(..) | Stage::Http2 | Stage::Switch(_) | Stage::End => Step::Wait,
        }
    }

    fn step_head(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        if active.detects_http2 {
            let n = active.input.len().min(PREFACE.len());
            if active.input[..n] == PREFACE[..n] {
                if n == PREFACE.len() {
                    active.stage = Stage::Http2;
                }
                return Step::Wait;
            }
            active.detects_http2 = false;
        }
        if active.core.is_idle() {
            active.request_began = now;
        }
        let received = active.input.len();
        let speaks_tls = active.core.is_idle() && active.input.starts_with(&TLS_HANDSHAKE);
        match active.core.recv_with(now, &mut active.input, head_pool::acquire_fields) {
            Ok(Some(Event::Head(parts))) => {
                active.head_bytes = received - active.input.len();
                return self.start_exchange(active, now, cx, parts);
            }
            Ok(Some(Event::Data(_) | Event::End(_))) => unreachable!("no body is under way"),
            Ok(None) if active.core.is_closed() => active.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Err(fault) => {
                self.refuse_fault(active, fault);
                if speaks_tls {
                    let message = "the client speaks TLS, and this port does not";
                    log_request!(
                        debug,
                        "vestibule::request",
                        &self.request_info(active),
                        "{message}"
                    );
                }
            }
        }
        Step::Again
    }

    /// Returns the facts of the current request, for log lines.
    pub(super) fn request_info(&self, active: &Active) -> RequestInfo {
        RequestInfo::new(&self.peer, self.last_id, active.request.clone())
    }

    /// Returns the id of the next request.
    fn next_request_id(&mut self) -> RequestId {
        let last = self.last_id;
        self.last_id = RequestId::new(last.connection(), last.request().wrapping_add(1));
        self.last_id
    }

    fn start_exchange(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
        mut parts: request::Parts,
    ) -> Step {
        active.stage = Stage::End; // replaced below
        let id = self.next_request_id();
        active.request = Some(RequestLine::new(&parts.method, &parts.uri));
        if self.config.access_log.is_enabled() {
            let entry = Entry::new(&self.peer, id, &parts);
            active.transfers.begin_entry(entry, active.request_began, active.head_bytes);
        }
        active.wants_upgrade = (active.core.wants_upgrade() && requested(&parts).is_some())
            || parts.method == Method::CONNECT;
        if self.config.budget.is_exhausted() {
            self.config.budget.count_refused();
            log_request!(
                warn,
                "vestibule::request",
                &self.request_info(active),
                "the buffer budget is full"
            );
            self.refuse(active, StatusCode::SERVICE_UNAVAILABLE);
            return Step::Again;
        }
        if is_misdirected(&self.config, &self.peer, &parts.headers) {
            let message = "the host needs another TLS handshake";
            log_request!(debug, "vestibule::request", &self.request_info(active), "{message}");
            self.refuse(active, StatusCode::MISDIRECTED_REQUEST);
            return Step::Again;
        }
        let body = match self.open_body(active, now) {
            Ok(body) => body,
            Err(fault) => {
                self.refuse_fault(active, fault);
                return Step::Again;
            }
        };
        if active.half_closed.is_some() {
            active.half_closed = Some(now);
            if active.input.is_empty() {
                active.core.disable_keep_alive(); // no request can follow
            }
        }
        if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            drop(body); // discarded, as after any early response
            self.respond(active, now, cx, server_options());
            return Step::Again;
        }
        let interim;
        (parts.extensions, interim) = head_pool::acquire_extensions(&self.peer, id);
        active.interim = (parts.version != Version::HTTP_10).then_some(interim);
        match self.poll_service_ready(cx) {
            Poll::Ready(Ok(())) => self.call(active, now, cx, Request::from_parts(parts, body)),
            Poll::Ready(Err(error)) => self.refuse_service_error(active, &error),
            Poll::Pending => {
                let until = deadline_after(now, self.config.ready_timeout);
                active.stage = Stage::Admit(Box::new(Request::from_parts(parts, body)), until);
                Step::Wait
            }
        }
    }

    fn poll_service_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.service().poll_ready(cx).map_err(Into::into)
    }

    fn service(&mut self) -> &mut S {
        self.service.as_mut().expect("it is dropped by a refusal only, and no request follows one")
    }

    fn step_admit(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        match self.poll_service_ready(cx) {
            Poll::Pending => return Step::Wait,
            Poll::Ready(Err(error)) => return self.refuse_service_error(active, &error),
            Poll::Ready(Ok(())) => {}
        }
        active.core.resume(now); // the client's time does not run while the service is not ready
        match std::mem::replace(&mut active.stage, Stage::End) {
            Stage::Admit(request, _) => self.call(active, now, cx, *request),
            _ => Step::Again,
        }
    }

    fn call(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
        request: Request<Body>,
    ) -> Step {
        active.stage = Stage::Call(call_service(self.service(), request), now);
        if active.upload.is_some() {
            return Step::Again; // the buffered part of the body is forwarded first
        }
        self.step_call(active, now, cx)
    }

    fn step_call(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        let Stage::Call(call, _) = &mut active.stage else { return Step::Again };
        let polled = call.as_mut().poll(cx);
        active.relay_interim();
        let Poll::Ready(result) = polled else { return Step::Wait };
        active.interim = None;
        active.stage = Stage::End; // drops the call before its response is sent
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                log_error(&self.request_info(active), &error);
                let mut response = problem::of_error(&*error, None, Format::Text);
                response.headers_mut().remove(VARY); // text for every client, so it does not vary
                response
            }
        };
        self.respond(active, now, cx, response);
        Step::Again
    }

    /// Answers in place of a service that has panicked or failed to be ready, by the error's kind, and
    /// closes.
    fn refuse_service_error(&mut self, active: &mut Active, error: &BoxError) -> Step {
        log_error(&self.request_info(active), error);
        self.refuse(active, problem::status(Error::kind_of(&**error)));
        Step::Again
    }

    /// Starts the response, and completes it unless its body is streamed.
    fn respond(&mut self, active: &mut Active, now: Instant, cx: &Context<'_>, response: Response) {
        let (mut parts, body) = response.into_parts();
        if active.wants_upgrade
            && (parts.status == StatusCode::SWITCHING_PROTOCOLS || parts.status.is_success())
            && let Some(takeover) = parts.extensions.remove()
        {
            return self.switch(active, now, &parts, Box::new((takeover, body)));
        }
        let length = body.len();
        self.disable_keep_alive_if_unread(active, cx);
        if let Err(misuse) = self.send_head(active, now, &parts, length) {
            let status = parts.status.as_u16();
            let message = "the service's response cannot be sent";
            log_request!(error, "vestibule::request", &self.request_info(active), status, error = %misuse, "{message}");
            self.refuse(active, StatusCode::INTERNAL_SERVER_ERROR);
            return;
        }
        active.transfers.record_head(parts.status, Some(&parts.extensions));
        head_pool::release_fields(parts.headers);
        active.is_close_delimited = active.core.is_close_delimited();
        if active.core.is_body_written() {
            return self.finish(active, now, None);
        }
        let sent = match body.into_kind() {
            body::Kind::Empty => Ok(()),
            body::Kind::Bytes(bytes) => self.send_piece(active, bytes),
            body::Kind::File(file) => self.send_file(active, file),
            streamed => {
                let mut body = Body::from(streamed);
                if self.io.can_splice() {
                    body.accept_pipes(&self.config.budget);
                }
                active.stage = Stage::Respond(body);
                return;
            }
        };
        match sent {
            Ok(()) => self.finish(active, now, None),
            Err(misuse) => self.fail_response(active, &misuse.into()),
        }
    }

    /// Disables keep-alive if the rest of the request's body has no reader and is too large to discard, so
    /// that the response's head has `Connection: close`.
    fn disable_keep_alive_if_unread(&mut self, active: &mut Active, cx: &Context<'_>) {
        let gone = |u: &Upload| u.sender.poll_ready(cx) == Poll::Ready(Err(body::ReaderDropped));
        if active.upload.as_ref().is_some_and(gone) {
            active.upload = None;
        }
        let unread = active.upload.is_none() && active.core.is_reading_body();
        if unread
            && active.core.remaining_body().is_none_or(|n| n > self.config.http1.discard_bytes)
        {
            active.core.disable_keep_alive();
        }
    }

    fn send_head(
        &mut self,
        active: &mut Active,
        now: Instant,
        parts: &response::Parts,
        length: Option<u64>,
    ) -> Result<(), Misuse> {
        let (core, out) = (&mut active.core, active.output.head());
        clock::with_date_line(now, |date| {
            core.send_head(now, parts.status, &parts.headers, length, date, out)
        })
    }

    /// Sends a response of 101, or the success of a CONNECT, after which its service has the stream.
    fn switch(
        &mut self,
        active: &mut Active,
        now: Instant,
        parts: &response::Parts,
        switch: Box<(Takeover, Body)>,
    ) {
        let protocol = parts.headers.get(UPGRADE).map_or(&b"websocket"[..], |v| v.as_bytes());
        let (core, out) = (&mut active.core, active.output.head());
        let sent = clock::with_date_line(now, |date| match parts.status {
            StatusCode::SWITCHING_PROTOCOLS => {
                core.send_switch(&parts.headers, protocol, date, out)
            }
            status => core.send_connected(status, &parts.headers, date, out),
        });
        match sent {
            Ok(()) => {
                active.transfers.record_head(parts.status, Some(&parts.extensions));
                active.stage = Stage::Switch(switch);
            }
            Err(_misuse) => self.refuse(active, StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn send_piece(&mut self, active: &mut Active, piece: Bytes) -> Result<(), Misuse> {
        let tail = active.core.send_data(piece.len(), active.output.head())?;
        active.transfers.record_body(active.output.end_position(), piece.len() as u64);
        active.output.push(piece, tail);
        Ok(())
    }

    fn send_file(&mut self, active: &mut Active, file: FileSlice) -> Result<(), Misuse> {
        let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
        let tail = active.core.send_data(len, active.output.head())?;
        active.transfers.record_body(active.output.end_position(), file.len());
        active.output.push_file(file, tail);
        Ok(())
    }

    fn send_pipe(&mut self, active: &mut Active, pipe: Pipe) -> Result<(), Misuse> {
        let tail = active.core.send_data(pipe.len(), active.output.head())?;
        active.transfers.record_body(active.output.end_position(), pipe.len() as u64);
        active.output.push_pipe(pipe, tail);
        Ok(())
    }

    fn step_respond(&mut self, active: &mut Active, now: Instant, cx: &mut Context<'_>) -> Step {
        let Stage::Respond(body) = &mut active.stage else { return Step::Again };
        let Poll::Ready(segment) = body.poll_segment(cx) else { return Step::Wait };
        if active.half_closed.is_some() {
            active.half_closed = Some(now);
        }
        let segment = match segment {
            Some(Ok(segment)) => segment,
            Some(Err(error)) => {
                self.fail_response(active, &error);
                return Step::Again;
            }
            None => {
                self.finish(active, now, None);
                return Step::Again;
            }
        };
        let sent = match segment {
            Segment::Bytes(data) => self.send_piece(active, data),
            Segment::File(file) => self.send_file(active, file),
            Segment::Pipe(pipe) => self.send_pipe(active, pipe),
            Segment::Trailers(trailers) => {
                self.finish(active, now, Some(&trailers));
                Ok(())
            }
        };
        if let Err(misuse) = sent {
            self.fail_response(active, &misuse.into());
        }
        Step::Again
    }

    /// Ends a complete response, and selects the next stage: another request, discard or close.
    fn finish(&mut self, active: &mut Active, now: Instant, trailers: Option<&HeaderMap>) {
        if let Err(misuse) = active.core.send_end(now, trailers, active.output.end()) {
            return self.fail_response(active, &misuse.into());
        }
        active.transfers.record_end(active.output.end_position());
        active.stage = if active.core.is_idle() {
            Stage::head()
        } else if active.core.is_closed() {
            // Unread bytes of the client would reset the connection at the close, and the response would
            // be lost.
            Stage::Close {
                linger: !active.read_closed && (active.protocol_error || !active.input.is_empty()),
            }
        } else if !active.is_close_delimited
            && (active.upload.is_some() || active.core.keeps_alive())
        {
            // The request's body still has a reader, or the rest of it is small enough to discard.
            active.core.resume(now); // the client's time does not run while the driver does not read
            let until = deadline_after(now, self.config.limits.body_timeout);
            Stage::Discard(self.config.http1.discard_bytes, until)
        } else {
            Stage::Close { linger: true }
        };
        if !matches!(active.stage, Stage::Discard(..)) {
            active.upload = None;
            active.request = None; // it shares the memory of the head
            active.head_bytes = 0;
        }
    }

    /// Logs an error of the response and aborts it.
    fn fail_response(&mut self, active: &mut Active, error: &BoxError) {
        let error = Chain(&**error);
        log_request!(warn, "vestibule::request", &self.request_info(active), %error, "the response was aborted");
        self.abort_response(active);
    }

    /// Closes the connection in the middle of the response, so that the client sees it as incomplete.
    fn abort_response(&mut self, active: &mut Active) {
        self.service = None;
        active.upload = None;
        active.stage = Stage::Close { linger: false };
    }

    fn step_discard(&mut self, active: &mut Active, now: Instant) -> Step {
        let Stage::Discard(left, _) = &mut active.stage else { return Step::Again };
        if active.upload.is_some() {
            return Step::Wait; // `pump_upload` forwards the rest
        }
        if !active.core.keeps_alive() {
            // No request follows, so nothing need be discarded.
            active.stage = Stage::Close {
                linger: !active.read_closed
                    && (active.protocol_error || active.core.is_reading_body()),
            };
            return Step::Again;
        }
        if active.core.is_idle() {
            active.stage = Stage::head();
            return Step::Again;
        }
        match active.core.recv(now, &mut active.input) {
            Ok(None) if active.core.is_closed() => active.stage = Stage::Close { linger: false },
            Ok(None) => return Step::Wait,
            Ok(Some(Event::Data(data))) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => active.stage = Stage::Close { linger: true },
            },
            Ok(Some(Event::End(_))) if active.core.is_idle() => active.stage = Stage::head(),
            Ok(Some(Event::End(_) | Event::Head(_))) => {
                active.stage = Stage::Close { linger: false }
            }
            // The response has been sent, so there is nothing to answer.
            Err(_) => active.stage = Stage::Close { linger: true },
        }
        Step::Again
    }

    /// Refuses a request that violates the protocol or is too slow.
    pub(super) fn refuse_fault(&mut self, active: &mut Active, fault: Fault) {
        if matches!(active.stage, Stage::Head(_)) {
            let id = self.next_request_id();
            active.request = None;
            if self.config.access_log.is_enabled() {
                let entry = Entry::without_head(&self.peer, id);
                active.transfers.begin_entry(entry, active.request_began, 0);
            }
        }
        log_request!(debug, "vestibule::request", &self.request_info(active), error = %fault, "a request was refused");
        self.refuse(active, fault.status());
    }

    /// Answers in place of the service, and closes. A response that has begun is aborted instead.
    pub(super) fn refuse(&mut self, active: &mut Active, status: StatusCode) {
        active.upload = None;
        self.service = None;
        let core = &mut active.core;
        let before = active.output.end_position();
        let linger = active.output.has_room() && {
            let out = active.output.head();
            clock::with_date_line(clock::now(), |date| core.send_error(status, date, out))
        };
        if linger && active.transfers.is_open() {
            let (body, end) =
                (active.output.body_len_after(before) as u64, active.output.end_position());
            active.transfers.record_head(status, None);
            active.transfers.record_body(end - body, body);
            active.transfers.record_end(end);
        }
        active.stage = Stage::Close { linger };
    }
}
