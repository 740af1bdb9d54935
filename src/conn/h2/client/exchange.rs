//! `Exchange`: one request on a shared connection, until the head of its response.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream, client::ResponseFuture};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{EXPECT, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY},
    request, response,
};

use super::{
    Active, Cause, Connection, ExchangeError, ReservedStream,
    incoming::Incoming,
    request::{convert, convert_switch},
    upload::Upload,
};
use crate::{
    body::Body,
    conn::{
        Delivery, InterimResponses,
        client::CONTINUE_TIMEOUT,
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
    /// The server's SETTINGS, while the request waits for them.
    settings: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send>>>,
    deadline: Option<Instant>,
    timer: Timer,
}

/// A request whose head was sent.
struct Sent {
    response: ResponseFuture,
    upload: Option<Box<Upload>>,
    /// The client's half of the stream after an extended CONNECT.
    tunnel: Option<SendStream<Bytes>>,
    /// The end of the time in which the body is held back for the answer to `Expect`.
    held_until: Option<Instant>,
    /// The time since which the exchange waits for the server.
    since: Instant,
}

impl Exchange {
    pub(super) fn new(reserved: ReservedStream, request: Request<Body>) -> Self {
        let ReservedStream { connection, active } = reserved;
        let (parts, body) = request.into_parts();
        let deadline = parts.extensions.get::<Deadline>().map(|deadline| deadline.0);
        let replay = body.replay();
        let needs_settings = !active.is_alone || asks_for_websocket(&parts);
        let timeout = connection.shared.limits.head_timeout;
        let settings = (needs_settings && !connection.has_settings())
            .then(|| Box::pin(connection.settings(timeout)) as Pin<Box<_>>);
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
            // Ready unless the connection has failed. It does not wait for a free stream: a request beyond the server's limit
            // waits in `h2`, as if it were sent.
            match self.connection.send.poll_ready(cx) {
                Poll::Ready(Ok(())) => self.send(now)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Cause::new(error))),
                Poll::Pending => {}
            }
        }
        let timeouts = &self.connection.shared.limits;
        let Some(sent) = &mut self.sent else {
            return self.poll_expired(None, now, cx).map(Err);
        };
        while let Poll::Ready(Some(Ok(head))) = sent.response.poll_informational(cx) {
            if head.status() == StatusCode::CONTINUE {
                sent.held_until = None;
            }
            relay_interim(&self.parts, head);
        }
        if sent.held_until.is_some_and(|until| until <= now) {
            sent.held_until = None;
        }
        if sent.held_until.is_none()
            && let Some(upload) = &mut sent.upload
        {
            let mut bytes = 0;
            match upload.poll(&self.connection.shared.room, now, &mut bytes, cx) {
                Poll::Ready(Ok(()) | Err(SendError::Gone)) => sent.upload = None,
                Poll::Ready(Err(SendError::Body(error))) => {
                    upload.outgoing.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Cause::Body(error)));
                }
                Poll::Ready(Err(SendError::Panicked(error))) => {
                    upload.outgoing.reset(Reason::CANCEL);
                    return Poll::Ready(Err(Cause::Body(error.into())));
                }
                Poll::Pending => {}
            }
            if bytes > 0 || sent.upload.is_none() {
                sent.since = now;
            }
        }
        if let Poll::Ready(result) = Pin::new(&mut sent.response).poll(cx) {
            if result.is_ok() && sent.held_until.is_some() {
                sent.upload = None; // refused by its head (RFC 9110 section 10.1.1)
            }
            return Poll::Ready(result.map_err(Cause::new));
        }
        if let Some(until) = sent.held_until {
            let passed = ready!(self.poll_expired(Some(until), now, cx));
            let Cause::Timeout = passed else { return Poll::Ready(Err(passed)) };
            return self.poll(cx); // the body is sent now
        }
        // The timeout applies to a pause of the server in reading the body, but not while the client sends it.
        let wait = match &sent.upload {
            None => sent.since.checked_add(timeouts.head_timeout),
            Some(upload) => upload.outgoing.deadline(timeouts.body_timeout),
        };
        self.poll_expired(wait, now, cx).map(Err)
    }

    /// Waits for `until`, or the deadline of the request.
    fn poll_expired(
        &mut self,
        until: Option<Instant>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Cause> {
        let until = [until, self.deadline].into_iter().flatten().min();
        if !self.timer.poll(cx, until, now) {
            return Poll::Pending;
        }
        let is_deadline = self.deadline.is_some_and(|deadline| deadline <= clock::now());
        Poll::Ready(if is_deadline { Cause::Deadline } else { Cause::Timeout })
    }

    fn poll_settings(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(settings) = &mut self.settings {
            // The end of the connection is noticed elsewhere. Without SETTINGS in time, the server allows nothing.
            let _ = ready!(settings.as_mut().poll(cx));
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
            (false, false) => {
                let outgoing = Outgoing::new(stream, body, MinRate::NONE);
                (Some(Box::new(Upload::new(outgoing))), None)
            }
        };
        let holds = upload.is_some() && expects_continue(&self.parts);
        let held_until = if holds { now.checked_add(CONTINUE_TIMEOUT) } else { None };
        self.sent = Some(Sent { response, upload, tunnel, held_until, since: now });
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
            Body::segmented(Incoming::new(inbox, upload, limits, active, &parts.headers))
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
        let awaits_body = self.sent.as_ref().is_some_and(|sent| {
            let is_read = sent.upload.as_ref().is_some_and(|upload| !upload.outgoing.is_stalled());
            is_read && sent.held_until.is_none()
        });
        // A body that was held back has not been read.
        let held = self.sent.filter(|sent| sent.held_until.is_some()).and_then(|sent| sent.upload);
        let unread = self.body.or_else(|| held.map(|upload| upload.outgoing.into_body()));
        let body = if was_sent { self.replay.or(unread) } else { unread.or(self.replay) };
        let request = body.map(|body| Box::new(Request::from_parts(self.parts, body)));
        let had_settings = self.connection.has_settings();
        ExchangeError { cause, delivery, request, awaits_body, had_settings }
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

/// Whether the server is asked before the body is sent.
fn expects_continue(parts: &request::Parts) -> bool {
    let expect = parts.headers.get(EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
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
