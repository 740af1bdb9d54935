//! The steps of an exchange up to the service's response: head, admission and call.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Method, Request, StatusCode, Version, header::VARY, request};

use super::{
    active::{Active, Stage},
    deadlines::deadline_after,
    driver::{Driver, Step},
};
use crate::{
    HttpService,
    body::Body,
    conn::{
        RequestInfo,
        access_log::Entry,
        call::{call_service, catch_panic, server_options},
        head_pool, log_error, log_request,
        misdirected::is_misdirected,
        request_log::RequestLine,
    },
    error::BoxError,
    net::Io,
    peer::RequestId,
    proto::{h1::Event, h2::PREFACE},
    semantics::{
        hop,
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
            Stage::Shutdown(_) => self.poll_shutdown(active, now, cx),
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
                if active.drain_until.is_some() {
                    active.core.disable_keep_alive(); // before its response is encoded
                }
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
    pub(super) fn next_request_id(&mut self) -> RequestId {
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
        if active.core.names_fields() {
            hop::remove_named(&mut parts.headers);
        }
        let id = self.next_request_id();
        active.request = Some(RequestLine::new(&parts.method, &parts.uri));
        if self.config.access_log.is_enabled() {
            let entry = Entry::new(&self.peer, id, &parts);
            active.transfers.begin_entry(entry, active.request_began, active.head_bytes);
        }
        active.wants_upgrade = (active.core.wants_upgrade() && requested(&parts).is_some())
            || parts.method == Method::CONNECT;
        if self.refuse_unadmitted(active, &parts.headers) {
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

    /// Refuses a request while the budget is exhausted, or for a host that needs another TLS handshake. Returns whether
    /// it was refused.
    fn refuse_unadmitted(&mut self, active: &mut Active, headers: &HeaderMap) -> bool {
        if self.config.budget.is_exhausted() {
            self.config.budget.count_refused();
            log_request!(
                warn,
                "vestibule::request",
                &self.request_info(active),
                "the buffer budget is full"
            );
            self.refuse(active, StatusCode::SERVICE_UNAVAILABLE);
            return true;
        }
        if is_misdirected(&self.config, &self.peer, headers) {
            let message = "the host needs another TLS handshake";
            log_request!(debug, "vestibule::request", &self.request_info(active), "{message}");
            self.refuse(active, StatusCode::MISDIRECTED_REQUEST);
            return true;
        }
        false
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
}
