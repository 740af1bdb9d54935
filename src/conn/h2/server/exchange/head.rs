//! Sends the heads of responses: interim, final and those of tunnels.

use std::{
    ops::ControlFlow::{self, Break, Continue},
    time::Instant,
};

use bytes::BytesMut;
use http::{StatusCode, header::VARY, response};

use super::{Exchange, Stage};
use crate::{
    Response,
    body::Body,
    conn::{
        call::{ServicePanicked, catch_panic},
        h2::{
            inbox::Inbox,
            server::{Shared, extended_connect::convert_response, queued::Last, respond::Outgoing},
            stream::H2Stream,
        },
        log_error, log_request,
        upgrade::Takeover,
    },
    error::{BoxError, Chain},
    net::clock,
    proto::h2::{own_values, prepare_interim, prepare_response},
    semantics::problem::{self, LocalReply},
};

impl Exchange {
    /// Sends the interim responses that the service has. What the stream cannot take is dropped.
    pub(super) fn relay_interim(&mut self) {
        let Some(interim) = &self.interim else { return };
        while let Some((status, mut headers)) = interim.take() {
            prepare_interim(&mut headers);
            own_values(&mut headers);
            let mut head = http::Response::new(());
            *head.status_mut() = status;
            *head.headers_mut() = headers;
            let _ = self.respond.send_informational(head);
        }
    }

    /// Returns the service's response, or the response to its error, which is logged.
    pub(super) fn response_of(&self, result: Result<Response, BoxError>) -> Response {
        match result {
            Ok(response) => response,
            Err(error) => {
                log_error(&self.info, &error);
                if error.is::<ServicePanicked>() {
                    return without_vary(problem::response(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        None,
                        self.format,
                    ));
                }
                without_vary(problem::of_error(&*error, None, self.format))
            }
        }
    }

    /// Sends the head. Returns `Break` if the stream is gone.
    pub(super) fn send_head(
        &mut self,
        shared: &Shared,
        now: Instant,
        response: Response,
    ) -> ControlFlow<()> {
        let (mut parts, body) = response.into_parts();
        if let Some(inbox) = self.tunnel.take() {
            let takeover = parts.extensions.remove::<Takeover>();
            // The service has answered an extended CONNECT like a request for an upgrade.
            let has_begun = match parts.status {
                StatusCode::SWITCHING_PROTOCOLS => !self.is_connect,
                status => self.is_connect && status.is_success(),
            };
            match takeover.filter(|_| has_begun) {
                Some(takeover) => return self.switch(now, parts, inbox, &takeover, body),
                // A success status would mean that the tunnel has started.
                None if parts.status.is_success() => parts.status = StatusCode::BAD_GATEWAY,
                None => {}
            }
        }
        let has_body = match self.prepare(&mut parts, &body, now) {
            Ok(has_body) => has_body,
            Err(error) => {
                let message = "the service's response cannot be sent";
                let error = Chain(&*error);
                log_request!(error, "vestibule::request", &self.info, %error, "{message}");
                self.refuse(StatusCode::INTERNAL_SERVER_ERROR);
                return Continue(());
            }
        };
        self.log_head(&parts);
        own_values(&mut parts.headers);
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
                self.sending.is_streamed = outgoing.is_streamed();
                self.stage = Stage::Respond(Box::new(outgoing));
                Continue(())
            }
            Ok(stream) => {
                self.discard_upload();
                self.queue(shared, now, Last::Response(stream));
                Continue(())
            }
        }
    }

    /// Prepares the head of a response with this body. Returns whether the body follows.
    fn prepare(
        &self,
        parts: &mut response::Parts,
        body: &Body,
        now: Instant,
    ) -> Result<bool, BoxError> {
        let length = catch_panic(|| body.len())?;
        let (status, headers) = (parts.status, &mut parts.headers);
        let prepare =
            |date: &[u8]| prepare_response(status, headers, length, self.is_head, date_value(date));
        Ok(clock::with_date_line(now, prepare)?)
    }

    /// Adds the head of the response to the entry of the access log.
    fn log_head(&mut self, parts: &response::Parts) {
        if let Some(log) = &mut self.log {
            log.entry.status = Some(parts.status);
            log.entry.local_reply = parts.extensions.get::<LocalReply>().is_some();
            if let Some(peer) = parts.extensions.get() {
                log.entry.peer = Clone::clone(peer);
            }
        }
    }

    /// Answers a CONNECT or an extended CONNECT, and begins the tunnel.
    fn switch(
        &mut self,
        now: Instant,
        mut parts: response::Parts,
        inbox: Inbox,
        takeover: &Takeover,
        body: Body,
    ) -> ControlFlow<()> {
        convert_response(&mut parts);
        let (status, headers) = (parts.status, &mut parts.headers);
        let prepare =
            |date: &[u8]| prepare_response(status, headers, None, false, date_value(date));
        let is_prepared = clock::with_date_line(now, prepare).is_ok();
        if let Some(log) = &mut self.log {
            log.entry.status = Some(status);
        }
        let mut head = http::Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = parts.headers;
        let sent = self.respond.send_response(head, false);
        let Some(send) = sent.ok().filter(|_| is_prepared) else {
            self.stage = Stage::Answered(Box::default());
            return Break(());
        };
        let stream = H2Stream::new(inbox, send);
        let unsent = stream.unsent();
        match takeover.begin(stream, BytesMut::new(), body) {
            Some(tunnel) => {
                if self.is_draining {
                    tunnel.begin_drain();
                }
                self.stage = Stage::Tunnel(Box::new(tunnel), unsent);
                Continue(())
            }
            None => {
                self.stage = Stage::Answered(Box::default());
                Break(())
            }
        }
    }
}

/// Removes `Vary`, since the text is the same for every client.
pub(super) fn without_vary(mut response: Response) -> Response {
    response.headers_mut().remove(VARY);
    response
}

/// Returns the value of a `Date` field line, `date: VALUE\r\n`.
fn date_value(line: &[u8]) -> &[u8] {
    line.get("date: ".len()..line.len().saturating_sub(2)).unwrap_or_default()
}
