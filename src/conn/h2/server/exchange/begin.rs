//! Begins an exchange: checks the head, and creates the request for the service.

use std::{
    task::{Context, Waker},
    time::Instant,
};

use bytes::Bytes;
use h2::{RecvStream, ext::Protocol, server::SendResponse};
use http::{Method, Request, StatusCode, request};

use super::{Exchange, Log, Stage, sending::Sending};
use crate::{
    body::Body,
    conn::{
        RequestInfo,
        access_log::Entry,
        call::server_options,
        h2::server::{
            Shared,
            extended_connect::{convert_request, take_protocol},
            upload::open_body,
        },
        head_pool, log_request,
        misdirected::is_misdirected,
        request_log::RequestLine,
    },
    peer::RequestId,
    proto::h2::{ValidRequest, validate_request},
    semantics::problem::Format,
};

impl Exchange {
    /// Begins an exchange with a head that was just received.
    pub(in crate::conn::h2::server) fn begin(
        shared: &Shared,
        id: RequestId,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        now: Instant,
    ) -> Self {
        let (mut parts, recv) = request.into_parts();
        let protocol = take_protocol(&mut parts);
        let valid = validate_request(&mut parts, &shared.config.limits, protocol.is_some());
        let mut exchange = Self::new(shared, id, &parts, respond, now);
        exchange.is_connect = parts.method == Method::CONNECT && protocol.is_none();
        let valid = match valid {
            Ok(valid) => valid,
            Err(fault) => {
                log_request!(debug, "vestibule::request", &exchange.info, error = %fault, "a request was refused");
                exchange.refuse(fault.status());
                return exchange;
            }
        };
        if let Some(status) = exchange.refusal(shared, &parts) {
            exchange.refuse(status);
        } else if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            exchange.stage = Stage::Answered(Box::new(server_options()));
        } else {
            let (extensions, interim) = head_pool::acquire_extensions(&shared.peer, id);
            parts.extensions = extensions;
            match protocol {
                None if !exchange.is_connect => {
                    exchange.interim = Some(interim);
                    exchange.admit(shared, parts, recv, &valid, now);
                }
                protocol => {
                    exchange.tunnel = Some(shared.inboxes.open(recv));
                    exchange.admit_tunnel(parts, protocol.as_ref(), now);
                }
            }
        }
        exchange
    }

    fn new(
        shared: &Shared,
        id: RequestId,
        parts: &request::Parts,
        respond: SendResponse<Bytes>,
        now: Instant,
    ) -> Self {
        let log = shared.config.access_log.is_enabled().then(|| {
            let entry = Entry::new(&shared.peer, id, parts);
            Log { entry, began: now }
        });
        let line = RequestLine::new(&parts.method, &parts.uri);
        let format = Format::without_accept(&parts.method, &parts.headers);
        Self {
            info: RequestInfo::new(&shared.peer, id, Some(line)),
            log,
            is_head: parts.method == Method::HEAD,
            is_connect: false,
            format,
            respond,
            sending: Sending::default(),
            upload: None,
            waits_for_client: false,
            tunnel: None,
            interim: None,
            is_draining: false,
            stage: Stage::Ended,
        }
    }

    /// Returns the status of a valid request that is refused before the service is called.
    fn refusal(&self, shared: &Shared, parts: &request::Parts) -> Option<StatusCode> {
        let config = &shared.config;
        if config.budget.is_exhausted() {
            config.budget.count_refused();
            log_request!(warn, "vestibule::request", &self.info, "the buffer budget is full");
            Some(StatusCode::SERVICE_UNAVAILABLE)
        } else if is_misdirected(config, &shared.peer, &parts.headers) {
            let message = "the host needs another TLS handshake";
            log_request!(debug, "vestibule::request", &self.info, "{message}");
            Some(StatusCode::MISDIRECTED_REQUEST)
        } else {
            None
        }
    }

    /// Waits for the service's readiness, with a request for a tunnel: by CONNECT, or by extended CONNECT with a protocol.
    fn admit_tunnel(
        &mut self,
        mut parts: request::Parts,
        protocol: Option<&Protocol>,
        now: Instant,
    ) {
        if protocol.is_some_and(|protocol| !convert_request(&mut parts, protocol)) {
            self.refuse(StatusCode::NOT_IMPLEMENTED);
            return;
        }
        let request = Box::new(Request::from_parts(parts, Body::empty()));
        self.stage = Stage::Admit(Some(request), now);
    }

    /// Waits for the service's readiness, with any other request.
    fn admit(
        &mut self,
        shared: &Shared,
        parts: request::Parts,
        recv: RecvStream,
        valid: &ValidRequest,
        now: Instant,
    ) {
        // The first poll of the stream follows, and registers a waker.
        let mut cx = Context::from_waker(Waker::noop());
        let ValidRequest { length, expects_continue } = *valid;
        let limits = &shared.config.limits;
        let (body, upload) = open_body(recv, length, expects_continue, limits, now, &mut cx);
        self.upload = upload;
        let request = Box::new(Request::from_parts(parts, body));
        self.stage = Stage::Admit(Some(request), now);
    }
}
