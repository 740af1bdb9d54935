//! `Exchange`: one request and its response, on one stream.

mod begin;
mod deadline;
mod head;

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, StatusCode};

use self::head::without_vary;
use super::{
    Shared,
    queued::Queued,
    respond::{Outgoing, SendError},
    upload::{Progress, Upload},
};
use crate::{
    Response,
    body::Body,
    conn::{
        InterimResponses, RequestInfo,
        access_log::Entry,
        call::{Call, catch_panic},
        h2::inbox::Inbox,
        log_error, log_request,
        upgrade::Tunnel,
    },
    error::{BoxError, Chain, Error},
    net::clock,
    proto::h2::Sent,
    semantics::problem::{self, Format},
};

/// One request and its response.
pub(super) struct Exchange {
    info: RequestInfo,
    log: Option<Log>,
    is_head: bool,
    /// Whether the method is CONNECT, without a protocol.
    is_connect: bool,
    /// The format of responses of the driver: text, or that of gRPC.
    format: Format,
    respond: SendResponse<Bytes>,
    sending: Sending,
    upload: Option<Upload>,
    /// Whether the reader of the request's body waits for the client's data.
    waits_for_client: bool,
    /// The client's data after a CONNECT, extended or not.
    tunnel: Option<Inbox>,
    /// The queue of the service's interim responses, while its future is polled.
    interim: Option<InterimResponses>,
    is_draining: bool,
    stage: Stage,
}

/// The progress of the response: the bytes that were passed to `h2`, and those that it has written.
#[derive(Default)]
struct Sending {
    queued: u64,
    written: u64,
    /// Whether the last frame was written.
    has_ended: bool,
    /// Whether the body is streamed, so that data in `h2` counts in the budget. A complete body is the service's memory.
    is_streamed: bool,
}

/// The entry in the access log, until the response has been sent.
struct Log {
    entry: Entry,
    began: Instant,
}

/// ```text
///   Admit ──▶ Called ──▶ Respond ──▶ Queued ──▶ Ended
///     └──────────▶ Answered ─┘          └──▶ Discard
/// ```
enum Stage {
    /// Waits for the service's readiness, since this time.
    Admit(Option<Box<Request<Body>>>, Instant),
    /// Waits for the service's response. Its timeout counts from this time.
    Called(Call, Instant),
    /// Has a response whose head is not sent.
    Answered(Box<Response>),
    Respond(Box<Outgoing>),
    /// `h2` has the whole response, and has not yet written its end.
    Queued(Queued),
    /// The response is complete, since this time, and the rest of the request's body is discarded.
    Discard(Instant),
    /// The tunnel after a response of 101, or a successful CONNECT.
    Tunnel(Box<Tunnel>),
    Ended,
}

/// The admission state of a request.
pub(super) enum Admission {
    Waits,
    Ended,
}

impl Exchange {
    pub(super) fn admission(&self) -> Admission {
        if let Stage::Admit(..) = self.stage { Admission::Waits } else { Admission::Ended }
    }

    /// Returns whether the client waits for the reader of the request's body.
    pub(super) fn is_paused(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::is_paused)
    }

    /// Returns the number of received bytes of the request's body that were not read.
    pub(super) fn unread(&mut self) -> usize {
        self.upload.as_mut().map_or(0, Upload::unread)
    }

    /// Returns the number of bytes of a streamed response that wait for the client.
    pub(super) fn held(&self) -> usize {
        let Sending { queued, written, is_streamed, .. } = self.sending;
        let queued = usize::try_from(queued.saturating_sub(written)).unwrap_or(usize::MAX);
        let queued = if is_streamed { queued } else { 0 };
        match &self.stage {
            Stage::Respond(outgoing) => queued + outgoing.held(),
            Stage::Queued(_) => queued,
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(_)
            | Stage::Ended => 0,
        }
    }

    /// Returns the id of the stream.
    pub(super) fn stream_id(&self) -> u32 {
        self.respond.stream_id().as_u32()
    }

    /// Records written data. `socket_wait` is the time since which data of the connection waited for the socket before.
    /// Returns whether the exchange has ended.
    pub(super) fn record_sent(
        &mut self,
        shared: &Shared,
        sent: &Sent,
        now: Instant,
        socket_wait: Option<Instant>,
    ) -> bool {
        match &mut self.stage {
            Stage::Respond(outgoing) => outgoing.record_progress(now),
            Stage::Queued(queued) => {
                queued.record_sent(shared.config.write_rate, now, socket_wait, sent.data);
            }
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(_)
            | Stage::Ended => {}
        }
        self.sending.written += sent.data as u64;
        self.sending.has_ended |= sent.has_ended;
        let has_ended = self.sending.has_ended && matches!(self.stage, Stage::Queued(_));
        if has_ended {
            let upload = self.upload.take();
            let _ = self.end(shared, true);
            self.upload = upload;
            if self.upload.is_some() {
                self.stage = Stage::Discard(clock::now());
                return false;
            }
        }
        has_ended
    }

    /// Returns whether only the rest of the request's body is awaited.
    pub(super) fn is_discarding(&self) -> bool {
        matches!(self.stage, Stage::Discard(_))
    }

    /// Takes the request, to call the service, which is ready.
    pub(super) fn take_request(&mut self) -> Option<Request<Body>> {
        match &mut self.stage {
            Stage::Admit(request, _) => request.take().map(|request| *request),
            Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Respond(_)
            | Stage::Queued(_)
            | Stage::Discard(_)
            | Stage::Tunnel(_)
            | Stage::Ended => None,
        }
    }

    /// Continues with the service's future.
    pub(super) fn start_call(&mut self, call: Call, now: Instant) {
        self.stage = Stage::Called(call, now);
    }

    /// Answers instead of the service.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.upload = None;
        self.stage =
            Stage::Answered(Box::new(without_vary(problem::response(status, None, self.format))));
    }

    /// Answers instead of a service that has failed.
    pub(super) fn fail(&mut self, _: &Shared, error: &BoxError) {
        log_error(&self.info, error);
        self.refuse(problem::status(Error::kind_of(&**error)));
    }

    /// Advances as far as possible. Ready when the exchange has ended.
    pub(super) fn poll(&mut self, shared: &Shared, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_upload(shared, now, cx);
        loop {
            match &mut self.stage {
                Stage::Admit(..) => {
                    if self.respond.poll_reset(cx).is_ready() {
                        return self.end(shared, false);
                    }
                    return Poll::Pending;
                }
                Stage::Called(call, _) => {
                    let polled = catch_panic(|| call.as_mut().poll(cx));
                    self.relay_interim();
                    match polled {
                        Ok(Poll::Ready(result)) => self.answer(result),
                        Err(panicked) => self.answer(Err(panicked.into())),
                        Ok(Poll::Pending) if self.respond.poll_reset(cx).is_ready() => {
                            return self.end(shared, false); // drops the service's future
                        }
                        Ok(Poll::Pending) => return Poll::Pending,
                    }
                }
                Stage::Answered(response) => {
                    let response = std::mem::take(&mut **response);
                    if self.send_head(shared, now, response).is_break() {
                        return self.end(shared, false);
                    }
                }
                Stage::Respond(outgoing) => {
                    let result = ready!(outgoing.poll(now, &mut self.sending.queued, cx));
                    if result.is_err() {
                        return self.end_response(shared, &result);
                    }
                    self.discard_upload();
                    let stage = std::mem::replace(&mut self.stage, Stage::Ended);
                    if let Stage::Respond(outgoing) = stage {
                        let stream = outgoing.into_stream();
                        let rate = shared.config.write_rate;
                        self.stage = Stage::Queued(Queued::new(stream, rate, now));
                    }
                }
                Stage::Queued(queued) => {
                    ready!(queued.stream.poll_reset(cx)).map_or_else(drop, drop);
                    return self.end(shared, false);
                }
                Stage::Tunnel(tunnel) => {
                    let result = match catch_panic(|| tunnel.poll(cx)) {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(())) => Ok(()),
                        Err(panicked) => Err(SendError::Panicked(panicked)),
                    };
                    return self.end_response(shared, &result);
                }
                Stage::Discard(_) if self.upload.is_some() => return Poll::Pending,
                Stage::Discard(_) | Stage::Ended => return Poll::Ready(()),
            }
        }
    }

    /// Discards the rest of the request's body, since the response is complete.
    fn discard_upload(&mut self) {
        if self.upload.as_mut().is_some_and(|upload| !upload.start_discarding()) {
            self.upload = None;
        }
    }

    /// Ends the service's call with its result.
    fn answer(&mut self, result: Result<Response, BoxError>) {
        self.interim = None;
        self.stage = Stage::Ended; // drops the call before its response is sent
        let response = self.response_of(result);
        self.stage = Stage::Answered(Box::new(response));
    }

    fn poll_upload(&mut self, shared: &Shared, now: Instant, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        let mut progress = upload.poll(&shared.config.limits, now, cx);
        if progress == Progress::WaitsForContinue {
            upload.record_continue();
            let mut interim = http::Response::new(());
            *interim.status_mut() = StatusCode::CONTINUE;
            let _ = self.respond.send_informational(interim); // too late once the response has begun
            progress = Progress::Waits;
        }
        if progress == Progress::Ended {
            self.upload = None;
        }
        let waits = progress == Progress::Waits;
        if let Stage::Called(_, since) = &mut self.stage
            && self.waits_for_client
            && !waits
        {
            *since = now; // the service's timeout does not run while the client is slow
        }
        self.waits_for_client = waits;
    }

    fn end_response(&mut self, shared: &Shared, result: &Result<(), SendError>) -> Poll<()> {
        if let Err(error) = result {
            self.log_abort(error);
        }
        self.end(shared, result.is_ok())
    }

    /// Logs a response that is aborted in its body. The stream is reset when its handles are dropped, after the
    /// queued data.
    fn log_abort(&self, error: &SendError) {
        let message = "the response was aborted";
        match error {
            SendError::Gone => {}
            SendError::Body(error) => {
                let error = Chain(&**error);
                log_request!(warn, "vestibule::request", &self.info, %error, "{message}");
            }
            SendError::Panicked(error) => {
                let error = Chain(error);
                log_request!(error, "vestibule::request", &self.info, %error, "{message}");
            }
        }
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.stage {
            Stage::Respond(outgoing) => outgoing.reset(reason),
            Stage::Queued(queued) => queued.reset(reason),
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Discard(_)
            | Stage::Tunnel(_)
            | Stage::Ended => {
                self.respond.send_reset(reason);
            }
        }
    }

    /// Records that the server shuts down.
    pub(super) fn begin_drain(&mut self) {
        self.is_draining = true;
        if let Stage::Tunnel(tunnel) = &self.stage {
            tunnel.begin_drain();
        }
    }

    fn end(&mut self, shared: &Shared, is_complete: bool) -> Poll<()> {
        self.upload = None;
        if let Some(log) = &mut self.log {
            log.entry.bytes = match &self.stage {
                Stage::Tunnel(tunnel) => tunnel.written(),
                _ => self.sending.written,
            };
        }
        self.stage = Stage::Ended;
        if let Some(Log { mut entry, began }) = self.log.take() {
            entry.complete = is_complete;
            entry.elapsed = clock::now().saturating_duration_since(began);
            shared.config.access_log.write(&entry);
        }
        Poll::Ready(())
    }

    /// Ends the exchange, since the connection has ended.
    pub(super) fn abandon(&mut self, shared: &Shared) {
        let _ = self.end(shared, false);
    }
}
