//! `Exchange`: one request and its response, on one stream.

use std::{
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Method, Request, StatusCode, header::VARY, response};

use super::{
    Shared,
    extended_connect::{convert_request, convert_response, take_protocol},
    respond::{Outgoing, SendError},
    upload::{Progress, Upload, open_body},
};
use crate::{
    Response,
    body::Body,
    conn::{
        Config, InterimResponses, RequestInfo,
        access_log::Entry,
        call::{Call, ServicePanicked, catch_panic, server_options},
        h2::stream::H2Stream,
        log_error, log_request,
        misdirected::is_misdirected,
        request_log::RequestLine,
        upgrade::{Takeover, Tunnel},
    },
    error::{BoxError, Chain, Error},
    net::clock,
    peer::RequestId,
    proto::h2::{ValidRequest, prepare_interim, prepare_response, validate_request},
    semantics::problem::{self, Format},
};

/// One request and its response.
pub(super) struct Exchange {
    info: RequestInfo,
    log: Option<Log>,
    is_head: bool,
    respond: SendResponse<Bytes>,
    upload: Option<Upload>,
    /// Whether the reader of the request's body waits for data of the client.
    waits_for_client: bool,
    /// The client's data after an extended CONNECT.
    tunnel: Option<RecvStream>,
    /// Where the service puts interim responses, while it is called.
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
///   Admit ──▶ Called ──▶ Respond ──▶ Ended
///     └──────────▶ Answered ─┘
/// ```
enum Stage {
    /// Waits for the service's readiness, since this time.
    Admit(Option<Box<Request<Body>>>, Instant),
    /// Waits for the service's response. Its timeout counts from this time.
    Called(Call, Instant),
    /// Will send a response of the driver.
    Answered(Box<Response>),
    Respond(Box<Outgoing>),
    /// The tunnel after a response of 101.
    Tunnel(Box<Tunnel>),
    Ended,
}

/// The admission state of a request.
pub(super) enum Admission {
    Waits,
    Ended,
}

impl Exchange {
    /// Begins an exchange with a head that was just received.
    pub(super) fn begin(
        shared: &Shared,
        id: RequestId,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        now: Instant,
    ) -> Self {
        let (mut parts, recv) = request.into_parts();
        let config = &shared.config;
        let is_head = parts.method == Method::HEAD;
        let protocol = take_protocol(&mut parts);
        let valid = validate_request(&mut parts, &config.limits, protocol.is_some());
        let line = RequestLine::new(&parts.method, &parts.uri);
        let info = RequestInfo::new(&shared.peer, id, Some(line));
        let log = config.access_log.is_enabled().then(|| {
            let entry = Entry::new(&shared.peer, id, &parts);
            Log { entry, began: now }
        });
        let mut exchange = Self {
            info,
            log,
            is_head,
            respond,
            upload: None,
            waits_for_client: false,
            tunnel: None,
            interim: None,
            is_draining: false,
            stage: Stage::Ended, // replaced below
        };
        let ValidRequest { length, expects_continue } = match valid {
            Ok(valid) => valid,
            Err(fault) => {
                log_request!(debug, "vestibule::request", &exchange.info, error = %fault, "a request was refused");
                exchange.refuse(fault.status());
                return exchange;
            }
        };
        if config.budget.is_exhausted() {
            config.budget.count_refused();
            log_request!(warn, "vestibule::request", &exchange.info, "the buffer budget is full");
            exchange.refuse(StatusCode::SERVICE_UNAVAILABLE);
        } else if is_misdirected(config, &shared.peer, &parts.headers) {
            let message = "the host needs another TLS handshake";
            log_request!(debug, "vestibule::request", &exchange.info, "{message}");
            exchange.refuse(StatusCode::MISDIRECTED_REQUEST);
        } else if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            exchange.stage = Stage::Answered(Box::new(server_options()));
        } else if let Some(protocol) = protocol {
            if !convert_request(&mut parts, &protocol) {
                exchange.refuse(StatusCode::NOT_IMPLEMENTED);
                return exchange;
            }
            exchange.tunnel = Some(recv);
            parts.extensions.insert(shared.peer.clone());
            parts.extensions.insert(id);
            let request = Box::new(Request::from_parts(parts, Body::empty()));
            exchange.stage = Stage::Admit(Some(request), now);
        } else {
            // The first poll of the stream follows, and registers a waker.
            let mut cx = Context::from_waker(Waker::noop());
            let (body, upload) =
                open_body(recv, length, expects_continue, &config.limits, now, &mut cx);
            exchange.upload = upload;
            parts.extensions.insert(shared.peer.clone());
            parts.extensions.insert(id);
            let interim = exchange.interim.insert(InterimResponses::new());
            parts.extensions.insert(interim.clone());
            let request = Box::new(Request::from_parts(parts, body));
            exchange.stage = Stage::Admit(Some(request), now);
        }
        exchange
    }

    pub(super) fn admission(&self) -> Admission {
        if let Stage::Admit(..) = self.stage { Admission::Waits } else { Admission::Ended }
    }

    /// Returns whether the client waits for the reader of the request's body.
    pub(super) fn is_paused(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::is_paused)
    }

    /// Returns the bytes of the request's body that were received and not read.
    pub(super) fn unread(&mut self) -> usize {
        self.upload.as_mut().map_or(0, Upload::unread)
    }

    /// Takes the request, to call the service, which is ready.
    pub(super) fn take_request(&mut self) -> Option<Request<Body>> {
        match &mut self.stage {
            Stage::Admit(request, _) => request.take().map(|request| *request),
            Stage::Called(..)
            | Stage::Answered(_)
            | Stage::Respond(_)
            | Stage::Tunnel(_)
            | Stage::Ended => None,
        }
    }

    /// Continues with the service's future.
    pub(super) fn called(&mut self, call: Call, now: Instant) {
        self.stage = Stage::Called(call, now);
    }

    /// Answers instead of the service.
    pub(super) fn refuse(&mut self, status: StatusCode) {
        self.upload = None;
        self.stage = Stage::Answered(Box::new(text(problem::response(status, None, Format::Text))));
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
                    let result = match polled {
                        Ok(Poll::Ready(result)) => result,
                        Ok(Poll::Pending) => {
                            if self.respond.poll_reset(cx).is_ready() {
                                return self.end(shared, false); // the service's future is dropped
                            }
                            return Poll::Pending;
                        }
                        Err(panicked) => Err(panicked.into()),
                    };
                    self.interim = None;
                    self.stage = Stage::Ended; // drops the call before its response is sent
                    let response = self.response_of(result);
                    self.stage = Stage::Answered(Box::new(response));
                }
                Stage::Answered(response) => {
                    let response = std::mem::take(&mut **response);
                    if self.send_head(shared, now, response).is_break() {
                        let is_complete = matches!(self.stage, Stage::Ended);
                        return self.end(shared, is_complete);
                    }
                }
                Stage::Respond(outgoing) => {
                    let mut sent = 0;
                    let polled = outgoing.poll(now, &mut sent, cx);
                    if let Some(log) = &mut self.log {
                        log.entry.bytes += sent;
                    }
                    let result = match polled {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(result) => result,
                    };
                    if let Err(error) = &result {
                        self.log_abort(error);
                    }
                    return self.end(shared, result.is_ok());
                }
                Stage::Tunnel(tunnel) => {
                    let result = match catch_panic(|| tunnel.poll(cx)) {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(())) => Ok(()),
                        Err(panicked) => Err(SendError::Panicked(panicked)),
                    };
                    if let Err(error) = &result {
                        self.log_abort(error);
                    }
                    return self.end(shared, result.is_ok());
                }
                Stage::Ended => return Poll::Ready(()),
            }
        }
    }

    fn poll_upload(&mut self, shared: &Shared, now: Instant, cx: &mut Context<'_>) {
        let Some(upload) = &mut self.upload else { return };
        let mut progress = upload.poll(&shared.config.limits, now, cx);
        if progress == Progress::WaitsForContinue {
            upload.continued();
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

    /// Sends the interim responses that the service has. What the stream cannot take is dropped.
    fn relay_interim(&mut self) {
        let Some(interim) = &self.interim else { return };
        while let Some((status, mut headers)) = interim.take() {
            prepare_interim(&mut headers);
            let mut head = http::Response::new(());
            *head.status_mut() = status;
            *head.headers_mut() = headers;
            let _ = self.respond.send_informational(head);
        }
    }

    fn response_of(&self, result: Result<Response, BoxError>) -> Response {
        match result {
            Ok(response) => response,
            Err(error) => {
                log_error(&self.info, &error);
                if error.is::<ServicePanicked>() {
                    return text(problem::response(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        None,
                        Format::Text,
                    ));
                }
                text(problem::of_error(&*error, None, Format::Text))
            }
        }
    }

    /// Sends the head. Returns `Break` when the exchange has ended; its stage is `Ended` if the response is complete.
    fn send_head(
        &mut self,
        shared: &Shared,
        now: Instant,
        response: Response,
    ) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let (mut parts, body) = response.into_parts();
        if let Some(recv) = self.tunnel.take() {
            let takeover = parts.extensions.remove::<Takeover>();
            match takeover.filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS) {
                Some(takeover) => return self.switch(now, parts, recv, &takeover, body),
                // A success status would mean that the tunnel has begun.
                None if parts.status.is_success() => parts.status = StatusCode::BAD_GATEWAY,
                None => {}
            }
        }
        let prepared = catch_panic(|| body.len()).map_err(BoxError::from).and_then(|length| {
            let (status, headers) = (parts.status, &mut parts.headers);
            let prepare = |date: &[u8]| {
                prepare_response(status, headers, length, self.is_head, date_value(date))
            };
            clock::with_date_line(now, prepare).map_err(BoxError::from)
        });
        let has_body = match prepared {
            Ok(has_body) => has_body,
            Err(error) => {
                let message = "the service's response cannot be sent";
                let error = Chain(&*error);
                log_request!(error, "vestibule::request", &self.info, %error, "{message}");
                self.refuse(StatusCode::INTERNAL_SERVER_ERROR);
                return Continue(());
            }
        };
        if let Some(log) = &mut self.log {
            log.entry.status = Some(parts.status);
            if let Some(peer) = parts.extensions.get() {
                log.entry.peer = Clone::clone(peer);
            }
        }
        let mut head = http::Response::new(());
        *head.status_mut() = parts.status;
        *head.headers_mut() = parts.headers;
        match self.respond.send_response(head, !has_body) {
            Err(_gone) => {
                self.stage = Stage::Answered(Box::default());
                Break(())
            }
            Ok(stream) if has_body => {
                let outgoing = Outgoing::new(stream, body, shared.config.write_rate);
                self.stage = Stage::Respond(Box::new(outgoing));
                Continue(())
            }
            Ok(_) => {
                self.stage = Stage::Ended;
                Break(())
            }
        }
    }

    /// Answers an extended CONNECT, and begins the tunnel.
    fn switch(
        &mut self,
        now: Instant,
        mut parts: response::Parts,
        recv: RecvStream,
        takeover: &Takeover,
        body: Body,
    ) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        convert_response(&mut parts);
        parts.status = StatusCode::OK;
        let (status, headers) = (parts.status, &mut parts.headers);
        let prepare =
            |date: &[u8]| prepare_response(status, headers, None, false, date_value(date));
        let is_prepared = clock::with_date_line(now, prepare).is_ok();
        if let Some(log) = &mut self.log {
            log.entry.status = Some(status);
        }
        let mut head = http::Response::new(());
        *head.headers_mut() = parts.headers;
        let sent = self.respond.send_response(head, false);
        let Some(send) = sent.ok().filter(|_| is_prepared) else {
            self.stage = Stage::Answered(Box::default());
            return Break(());
        };
        match takeover.begin(H2Stream::new(recv, send), BytesMut::new(), body) {
            Some(tunnel) => {
                if self.is_draining {
                    tunnel.begin_drain();
                }
                self.stage = Stage::Tunnel(Box::new(tunnel));
                Continue(())
            }
            None => {
                self.stage = Stage::Answered(Box::default());
                Break(())
            }
        }
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
            Stage::Admit(..)
            | Stage::Called(..)
            | Stage::Answered(_)
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
        if let (Stage::Tunnel(tunnel), Some(log)) = (&self.stage, &mut self.log) {
            log.entry.bytes = tunnel.written();
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

    /// Returns the earliest deadline of this stage.
    pub(super) fn deadline(&self, config: &Config) -> Option<Instant> {
        let upload = self.upload.as_ref().and_then(|upload| upload.deadline(&config.limits));
        let stage = match &self.stage {
            Stage::Admit(_, since) => since.checked_add(config.ready_timeout),
            Stage::Called(..) if self.waits_for_client => None,
            Stage::Called(_, since) => since.checked_add(config.answer_timeout),
            Stage::Respond(outgoing) => outgoing.deadline(config.write_timeout),
            Stage::Answered(_) | Stage::Tunnel(_) | Stage::Ended => None,
        };
        [upload, stage].into_iter().flatten().min()
    }

    /// Handles a deadline that has passed. The exchange must be polled after that.
    pub(super) fn expire(&mut self, shared: &Shared, now: Instant) {
        let config = &shared.config;
        if let Some(upload) = &mut self.upload
            && upload.deadline(&config.limits).is_some_and(|d| d <= now)
        {
            // The service gets the error from the body. Its response, usually an error, is still sent.
            upload.time_out();
            self.upload = None;
            self.waits_for_client = false;
            if let Stage::Called(_, since) = &mut self.stage {
                *since = now;
            }
            return;
        }
        match self.stage {
            Stage::Admit(..) => {
                log_request!(
                    warn,
                    "vestibule::request",
                    &self.info,
                    "the service was not ready in time"
                );
                self.refuse(StatusCode::SERVICE_UNAVAILABLE);
            }
            Stage::Called(..) => {
                let message = "the service did not answer in time";
                log_request!(error, "vestibule::request", &self.info, "{message}");
                self.refuse(StatusCode::GATEWAY_TIMEOUT);
            }
            Stage::Respond(_) => {
                let message = "the client does not read the response";
                log_request!(debug, "vestibule::request", &self.info, "{message}");
                self.reset(Reason::CANCEL);
            }
            Stage::Answered(_) | Stage::Tunnel(_) | Stage::Ended => {}
        }
    }
}

/// Removes `Vary`, since the text is the same for every client.
fn text(mut response: Response) -> Response {
    response.headers_mut().remove(VARY);
    response
}

/// Returns the value of a `Date` field line, `date: VALUE\r\n`.
fn date_value(line: &[u8]) -> &[u8] {
    line.get("date: ".len()..line.len().saturating_sub(2)).unwrap_or_default()
}
