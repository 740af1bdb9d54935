//! The steps of an exchange from the service's response to its end: head, body, and the rest of the request.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::UPGRADE, response};

use super::{
    active::{Active, Stage, Upload},
    deadlines::deadline_after,
    driver::{Driver, Step},
};
use crate::{
    HttpService, Response,
    body::{self, Body, FileSlice, Pipe, Segment},
    conn::{head_pool, log_request, upgrade::Takeover},
    error::{BoxError, Chain},
    net::{Io, clock},
    proto::h1::{Event, Misuse},
};

impl<I, S> Driver<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Starts the response, and completes it unless its body is streamed.
    pub(super) fn respond(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &Context<'_>,
        response: Response,
    ) {
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
            body::Kind::File(file) => self.send_file(active, *file),
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

    pub(super) fn step_respond(
        &mut self,
        active: &mut Active,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Step {
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
    pub(super) fn abort_response(&mut self, active: &mut Active) {
        self.service = None;
        active.upload = None;
        active.stage = Stage::Close { linger: false };
    }

    pub(super) fn step_discard(&mut self, active: &mut Active, now: Instant) -> Step {
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
}
