//! `Exchange`: one request and its response, on one stream.

mod begin;
mod deadline;
mod end;
mod head;
mod sending;

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Request, StatusCode};

use self::{head::without_vary, sending::Sending};
use super::{
    Shared,
    queued::{Last, Queued},
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
        h2::{inbox::Inbox, unsent::Unsent},
        log_error,
        upgrade::Tunnel,
    },
    error::{BoxError, Error},
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
    /// `h2` has the whole response, or all data before its reset, and has not yet written the end of it.
    Queued(Queued),
    /// The response is complete, since this time, and the rest of the request's body is discarded.
    Discard(Instant),
    /// The tunnel after a response of 101, or a successful CONNECT, and its data that `h2` holds.
    Tunnel(Box<Tunnel>, Arc<Unsent>),
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

    /// Returns whether the service was called, and its response is not complete.
    pub(super) fn is_working(&self) -> bool {
        match self.stage {
            Stage::Called(..) | Stage::Respond(_) | Stage::Tunnel(..) => true,
            Stage::Admit(..)
            | Stage::Answered(_)
            | Stage::Queued(_)
            | Stage::Discard(_)
            | Stage::Ended => false,
        }
    }

    /// Returns whether the client has reset the stream before the service was called. `cx` is that of the stream.
    pub(super) fn is_cancelled(&mut self, cx: &mut Context<'_>) -> bool {
        self.respond.poll_reset(cx).is_ready()
    }

    /// Returns whether the client waits for the reader of the request's body.
    pub(super) fn is_paused(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::is_paused)
    }

    /// Returns the number of received bytes of the request's body that were not read.
    pub(super) fn unread(&mut self) -> usize {
        self.upload.as_mut().map_or(0, Upload::unread)
    }

    /// Returns the id of the stream.
    pub(super) fn stream_id(&self) -> u32 {
        self.respond.stream_id().as_u32()
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
            | Stage::Tunnel(..)
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

    /// Returns whether a streamed response waits until `h2` holds less data of the connection.
    pub(super) fn waits_for_room(&self) -> bool {
        matches!(&self.stage, Stage::Respond(outgoing) if outgoing.waits_for_room())
    }

    /// Advances as far as possible. `room` is the number of bytes of streamed responses that `h2` may hold in addition. Ready
    /// when the exchange has ended.
    pub(super) fn poll(
        &mut self,
        shared: &Shared,
        now: Instant,
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
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
                    let polled = outgoing.poll(now, room, &mut self.sending.queued, cx);
                    self.sending.update_wait(now);
                    self.update_room_timeout(now);
                    let last = match ready!(polled) {
                        Ok(()) => Last::Response,
                        Err(error) => {
                            self.log_abort(&error);
                            if matches!(error, SendError::Gone) || !self.sending.is_pending() {
                                return self.end(shared, false);
                            }
                            Last::Aborted
                        }
                    };
                    self.discard_upload();
                    let stage = std::mem::replace(&mut self.stage, Stage::Ended);
                    if let Stage::Respond(outgoing) = stage {
                        self.queue(shared, now, last(outgoing.into_stream()));
                    }
                }
                Stage::Queued(queued) => {
                    let is_complete = ready!(queued.poll(cx));
                    if self.is_connect && queued.has_failed() {
                        // RFC 9113 section 8.5. After an extended CONNECT it is CANCEL (RFC 8441 section 5).
                        self.respond.send_reset(Reason::CONNECT_ERROR);
                    }
                    return self.end(shared, is_complete);
                }
                Stage::Tunnel(tunnel, unsent) => {
                    let polled = catch_panic(|| tunnel.poll(cx));
                    if let Ok(Poll::Pending) = polled {
                        return Poll::Pending;
                    }
                    let (written, unsent) = (tunnel.written(), unsent.clone());
                    self.stage = Stage::Ended; // drops the tunnel, which may own the stream
                    let is_complete = polled.is_ok();
                    if let Err(panicked) = polled {
                        self.log_abort(&SendError::Panicked(panicked));
                    }
                    // A stream that was moved to another task may be written to for long, and is not waited for.
                    let unsent = if unsent.is_closed() { unsent } else { Arc::default() };
                    self.queue(shared, now, Last::Tunnel { unsent, written, is_complete });
                }
                Stage::Discard(_) if self.upload.is_some() => return Poll::Pending,
                Stage::Discard(_) | Stage::Ended => return Poll::Ready(()),
            }
        }
    }

    /// Waits until the last data of the stream is written.
    pub(super) fn queue(&mut self, shared: &Shared, now: Instant, last: Last) {
        self.stage = Stage::Queued(Queued::new(last, shared.config.write_rate, now));
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

    /// Records that the server shuts down.
    pub(super) fn begin_drain(&mut self) {
        self.is_draining = true;
        if let Stage::Tunnel(tunnel, _) = &self.stage {
            tunnel.begin_drain();
        }
    }
}
