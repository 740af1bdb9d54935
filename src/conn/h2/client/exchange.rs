//! `Exchange`: one request on a shared connection, until the head of its response.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream, client::ResponseFuture};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY},
    request, response,
};

use super::{
    Active, Cause, Connection, ExchangeError,
    incoming::Incoming,
    request::{convert, convert_switch},
};
use crate::{
    body::Body,
    conn::{
        Delivery, InterimResponses,
        h2::{
            server::respond::{Outgoing, SendError},
            stream::H2Stream,
        },
        timer::Timer,
        upgrade::{self, Upgraded},
        websocket,
    },
    net::clock,
    peer::{Deadline, MinRate},
    semantics::{self, gateway},
};

/// The future of [`Connection::exchange`].
pub struct Exchange(Option<Inner>);

struct Inner {
    connection: Connection,
    active: Active,
    parts: request::Parts,
    /// The request's body until it is sent.
    body: Option<Body>,
    /// A copy of the body for a retry.
    replay: Option<Body>,
    sent: Option<Sent>,
    /// The server's SETTINGS, while a request that depends on them waits.
    settings: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    deadline: Option<Instant>,
    timer: Timer,
}

/// A request whose head was sent.
struct Sent {
    response: ResponseFuture,
    upload: Option<Box<Outgoing>>,
    /// The client's half of the stream after an extended CONNECT.
    tunnel: Option<SendStream<Bytes>>,
    /// The time since which the exchange waits for the server.
    since: Instant,
}

impl Exchange {
    pub(super) fn new(connection: Connection, request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let deadline = parts.extensions.get::<Deadline>().map(|deadline| deadline.0);
        let replay = body.replay();
        let active = Active::new(&connection.shared);
        let settings = asks_for_websocket(&parts).then(|| {
            let mut has_settings = connection.shared.has_settings.clone();
            let timeout = connection.shared.limits.head_timeout;
            // An error is the end of the connection, which is noticed elsewhere. Without SETTINGS in time, the server
            // allows nothing.
            let wait = async move {
                let has_come = has_settings.wait_for(|has| *has);
                drop(tokio::time::timeout(timeout, has_come).await);
            };
            Box::pin(wait) as Pin<Box<_>>
        });
        Self(Some(Inner {
            connection,
            active,
            parts,
            body: Some(body),
            replay,
            sent: None,
            settings,
            deadline,
            timer: Timer::default(),
        }))
    }
}

impl Inner {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<h2::RecvStream>, Cause>> {
        let now = clock::now();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Poll::Ready(Err(Cause::Deadline));
        }
        if self.sent.is_none() && self.poll_settings(cx).is_ready() {
            // Pending while the server allows no further request.
            match self.connection.send.poll_ready(cx) {
                Poll::Ready(Ok(())) => self.send(now)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Cause::new(error))),
                Poll::Pending => {}
            }
        }
        let timeouts = &self.connection.shared.limits;
        let Some(sent) = &mut self.sent else {
            let expired = self.timer.poll(cx, self.deadline, now);
            return if expired { Poll::Ready(Err(Cause::Deadline)) } else { Poll::Pending };
        };
        if let Some(upload) = &mut sent.upload {
            let mut bytes = 0;
            match upload.poll(now, &mut bytes, cx) {
                Poll::Ready(Ok(()) | Err(SendError::Gone)) => sent.upload = None,
                Poll::Ready(Err(SendError::Body(error))) => {
                    upload.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Cause::Body(error)));
                }
                Poll::Ready(Err(SendError::Panicked(error))) => {
                    upload.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Cause::Body(error.into())));
                }
                Poll::Pending => {}
            }
            if bytes > 0 || sent.upload.is_none() {
                sent.since = now;
            }
        }
        while let Poll::Ready(Some(Ok(head))) = sent.response.poll_informational(cx) {
            relay_interim(&self.parts, head);
        }
        if let Poll::Ready(result) = Pin::new(&mut sent.response).poll(cx) {
            return Poll::Ready(result.map_err(Cause::new));
        }
        // The timeout applies to a pause of the server in reading the body, but not while the client sends it.
        let wait = match &sent.upload {
            None => sent.since.checked_add(timeouts.head_timeout),
            Some(upload) => upload.deadline(timeouts.body_timeout),
        };
        let until = [wait, self.deadline].into_iter().flatten().min();
        if !self.timer.poll(cx, until, now) {
            return Poll::Pending;
        }
        let is_deadline = self.deadline.is_some_and(|deadline| deadline <= clock::now());
        Poll::Ready(Err(if is_deadline { Cause::Deadline } else { Cause::Timeout }))
    }

    fn poll_settings(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(settings) = &mut self.settings {
            ready!(settings.as_mut().poll(cx));
            self.settings = None;
        }
        Poll::Ready(())
    }

    fn send(&mut self, now: Instant) -> Result<(), Cause> {
        let shared = &self.connection.shared;
        let mut head = convert(&self.parts, &shared.scheme).ok_or(Cause::Unsendable)?;
        let is_switch = asks_for_websocket(&self.parts);
        if is_switch {
            if !self.connection.send.is_extended_connect_protocol_enabled() {
                return Err(Cause::NoExtendedConnect);
            }
            convert_switch(&mut head);
        }
        let body = self.body.take().unwrap_or_default();
        let ends = http_body::Body::is_end_stream(&body) && !is_switch;
        let (response, stream) =
            self.connection.send.send_request(head, ends).map_err(Cause::new)?;
        let (upload, tunnel) = match (ends, is_switch) {
            (true, _) => (None, None),
            (false, true) => (None, Some(stream)),
            (false, false) => (Some(Box::new(Outgoing::new(stream, body, MinRate::NONE))), None),
        };
        self.sent = Some(Sent { response, upload, tunnel, since: now });
        Ok(())
    }

    fn respond(self, response: Response<h2::RecvStream>) -> Response<Body> {
        let Self { connection, active, sent, parts: request, .. } = self;
        let (upload, tunnel) = sent.map_or((None, None), |sent| (sent.upload, sent.tunnel));
        let (mut parts, recv) = response.into_parts();
        if let Some(mut send) = tunnel {
            if parts.status.is_success() {
                agree(&mut parts, &request);
                let mut response = Response::from_parts(parts, upgrade::open_body(active));
                let inbox = connection.shared.inboxes.open(recv);
                let stream = Upgraded::new(H2Stream::new(inbox, send), BytesMut::new());
                upgrade::put_stream(&mut response, stream);
                return response;
            }
            let _ = send.send_data(Bytes::new(), true); // fails if the server has reset the stream
        }
        let limits = connection.shared.limits.clone();
        let body = if recv.is_end_stream() && upload.is_none() {
            Body::empty()
        } else {
            let inbox = connection.shared.inboxes.open(recv);
            Body::new(Incoming::new(inbox, upload, limits, active, &parts.headers))
        };
        Response::from_parts(parts, body)
    }

    #[cold]
    fn fail(self, cause: Cause) -> ExchangeError {
        if let Cause::Closed(_) = &cause {
            self.connection.close();
        }
        let was_sent = self.sent.is_some();
        let delivery = if !was_sent || cause.is_unprocessed() {
            Delivery::NotSent
        } else {
            Delivery::MaybeSent
        };
        let body = if was_sent { self.replay } else { self.body.or(self.replay) };
        let request = body.map(|body| Box::new(Request::from_parts(self.parts, body)));
        ExchangeError { cause, delivery, request }
    }
}

/// Passes an interim response on, without the fields of the server's hop. 100 is for this hop.
fn relay_interim(request: &request::Parts, head: Response<()>) {
    if let Some(receiver) = request.extensions.get::<InterimResponses>() {
        let (mut head, ()) = head.into_parts();
        gateway::prepare_response(&mut head.headers);
        let _ = receiver.send(head.status, head.headers); // beyond the bound they are dropped
    }
}

/// Whether a request is sent as an extended CONNECT.
fn asks_for_websocket(parts: &request::Parts) -> bool {
    semantics::upgrade::requested(parts).is_some_and(semantics::upgrade::is_websocket)
}

/// Makes the response to an extended CONNECT that of HTTP/1.1 (RFC 8441 section 5), for the key of the request.
fn agree(response: &mut response::Parts, request: &request::Parts) {
    response.status = StatusCode::SWITCHING_PROTOCOLS;
    semantics::upgrade::set(&mut response.headers, HeaderValue::from_static("websocket"));
    if let Some(key) = request.headers.get(SEC_WEBSOCKET_KEY) {
        response.headers.insert(SEC_WEBSOCKET_ACCEPT, websocket::accept(key));
    }
}

impl Future for Exchange {
    type Output = Result<Response<Body>, ExchangeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.0.as_mut().expect("not polled again after it has ended");
        let result = ready!(inner.poll(cx));
        let inner = self.0.take().expect("just polled");
        Poll::Ready(match result {
            Ok(response) => Ok(inner.respond(response)),
            Err(cause) => Err(inner.fail(cause)),
        })
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("has_ended", &self.0.is_none()).finish_non_exhaustive()
    }
}
