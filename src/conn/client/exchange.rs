//! `Exchange`: sends a request and waits for the head of its response.

mod respond;

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Request, Response, request, response};

use super::{
    Cause, Connection, ExchangeError, Protocol, State,
    upload::{Upload, pump},
};
use crate::{
    body::Body,
    conn::{Checkin, Delivery, InterimResponses},
    net::{Io, clock},
    peer::Deadline,
    proto::h1::Event,
    semantics::gateway,
};

/// Time that a server has to answer `Expect: 100-continue`: 1 s, as in curl. After it the body is sent, since old
/// servers do not answer (RFC 9110 section 10.1.1).
pub(in crate::conn) const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The future of [`Connection::exchange_with`].
///
/// It is not boxed; the caller may box it.
pub struct Exchange<P: Protocol, I, C> {
    /// `None` before it is connected, and after its end.
    connection: Option<Connection<P, I>>,
    /// What it sends. Beside the connection, so that a request that waits for one is not moved when it has it.
    outgoing: Outgoing<P, C>,
}

/// A request, and the state of its exchange.
struct Outgoing<P: Protocol, C> {
    /// `None` after the end, like the head of the request.
    checkin: Option<C>,
    parts: Option<request::Parts>,
    extra: P::Extra,
    /// The part of the body that was not passed to the connection.
    upload: Option<Upload>,
    /// A copy of the complete body, if it can be sent twice.
    replay: Option<Body>,
    /// The request's deadline.
    deadline: Option<Instant>,
    /// The end of the time in which the body is held back for the answer to `Expect`.
    held_until: Option<Instant>,
    /// Whether a read in this same poll was pending, so that the task is registered for reads.
    is_read_pending: bool,
    progress: Progress,
}

const ENDED: &str = "not polled before it is connected, nor after it has ended";

/// The progress of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    /// The request and its body are unchanged.
    New,
    /// The head is encoded, and perhaps a part of the body; nothing has been written.
    Encoded,
    /// At least a byte has been written.
    Written,
    /// At least a byte of the response has been read.
    Answered,
}

#[cfg_attr(
    not(feature = "upstream"),
    allow(dead_code, reason = "some are for pools of connections")
)]
impl<P: Protocol, I, C> Exchange<P, I, C> {
    /// Creates the exchange of a request that has no connection yet.
    pub(crate) fn unconnected(request: Request<Body>, extra: P::Extra, checkin: C) -> Self {
        let (parts, body) = request.into_parts();
        let outgoing = Outgoing {
            checkin: Some(checkin),
            deadline: parts.extensions.get::<Deadline>().map(|deadline| deadline.0),
            parts: Some(parts),
            extra,
            replay: body.replay(),
            upload: Some(Upload::new(body)),
            held_until: None,
            is_read_pending: false,
            progress: Progress::New,
        };
        Self { connection: None, outgoing }
    }

    /// Returns the deadline of the request.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.outgoing.deadline
    }

    /// Returns whether the request can be sent a second time: its body is empty, or complete.
    pub(crate) fn can_replay(&self) -> bool {
        self.outgoing.replay.is_some()
    }

    /// Returns the head of the request, and what takes the connection at the end. `None` after the end.
    pub(crate) fn unsent(&mut self) -> Option<(&request::Parts, &mut C)> {
        let Outgoing { parts, checkin, .. } = &mut self.outgoing;
        Some((parts.as_ref()?, checkin.as_mut()?))
    }

    /// Returns the request, which has no connection. `None` after the end.
    pub(crate) fn take_request(&mut self) -> Option<Request<Body>> {
        let body = self.outgoing.upload.take()?.into_body();
        Some(Request::from_parts(self.outgoing.parts.take()?, body))
    }
}

impl<P: Protocol, I: Io, C: Checkin<Connection<P, I>>> Exchange<P, I, C> {
    /// [Connects](Self::connect) with a connection that was found [usable](Connection::poll_usable). The exchange must
    /// be polled in the same poll, with the same waker.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for pools of connections"))]
    pub(crate) fn connect_usable(&mut self, connection: Connection<P, I>) {
        self.connect(connection);
        self.outgoing.is_read_pending = true;
    }

    /// Begins the exchange on a connection.
    pub(crate) fn connect(&mut self, mut connection: Connection<P, I>) {
        let state = &mut *connection.state;
        state.exchanges += 1;
        if let Some(parts) = &self.outgoing.parts {
            state.core.begin_request(parts);
        }
        if P::sends_any_length()
            && state.io.can_splice()
            && let Some(upload) = &self.outgoing.upload
        {
            upload.accept_pipes();
        }
        self.connection = Some(connection);
    }
}

impl<P: Protocol, C> Outgoing<P, C> {
    fn poll_head<I: Io>(
        &mut self,
        state: &mut State<P, I>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<response::Parts, Cause<P>>> {
        if self.progress == Progress::New {
            self.encode_request(state, now)?;
        }
        loop {
            if !state.core.awaits_continue() {
                self.held_until = None;
            }
            if self.held_until.is_none() {
                pump(state, &mut self.upload, now, cx)?;
            }
            let had_room = state.output.has_room();
            // A write may fail because the server has responded and closed the connection. Its response can still be
            // read, so the error counts only if there is none.
            let mut broken = None;
            match self.poll_flush(state, cx, now) {
                Poll::Ready(Ok(())) if !had_room && self.upload.is_some() => continue,
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(e)) => broken = Some(Cause::Io(e)),
            }
            let is_read_pending = std::mem::take(&mut self.is_read_pending) && broken.is_none();
            let read = if is_read_pending { Poll::Pending } else { state.poll_read(cx) };
            match read {
                Poll::Ready(Ok(0)) => {
                    if self.progress == Progress::Answered {
                        state.core.recv_eof(now).map_err(Cause::Fault)?;
                    }
                    return Poll::Ready(Err(Cause::Closed));
                }
                Poll::Ready(Ok(_)) => {
                    self.progress = Progress::Answered;
                    let event = state.core.recv(now, &mut state.input).map_err(Cause::Fault)?;
                    self.relay_interim(state);
                    if let Some(Event::Head(head)) = event {
                        return Poll::Ready(Ok(head));
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Cause::Io(e))),
                Poll::Pending => match broken {
                    Some(cause) => return Poll::Ready(Err(cause)),
                    None => match ready!(self.poll_expired(state, now, cx)) {
                        Some(cause) => return Poll::Ready(Err(cause)),
                        None => self.held_until = None,
                    },
                },
            }
        }
    }

    fn encode_request<I>(&mut self, state: &mut State<P, I>, now: Instant) -> Result<(), Cause<P>> {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Cause::Deadline);
        }
        let length = self.upload.as_ref().map_or(Some(0), Upload::len);
        let parts = self.parts.as_ref().expect(ENDED);
        let (core, out) = (&mut state.core, state.output.head());
        core.send_request(now, parts, &self.extra, length, out).map_err(Cause::Misuse)?;
        if core.awaits_continue() {
            self.held_until = now.checked_add(CONTINUE_TIMEOUT);
        }
        self.progress = Progress::Encoded;
        Ok(())
    }

    fn poll_flush<I: Io>(
        &mut self,
        state: &mut State<P, I>,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<io::Result<()>> {
        // A stream with TLS may return an error after its socket has accepted bytes of the same write.
        let written = |state: &State<P, I>| (state.output.written(), state.io.socket_written());
        let before = written(state);
        let result = state.poll_flush(cx, now);
        if self.progress == Progress::Encoded && written(state) != before {
            self.progress = Progress::Written;
        }
        result
    }

    /// Forwards interim responses, without hop-by-hop fields.
    fn relay_interim<I>(&self, state: &mut State<P, I>) {
        while let Some(mut head) = state.core.take_interim() {
            let parts = self.parts.as_ref();
            if let Some(receiver) = parts.and_then(|p| p.extensions.get::<InterimResponses>()) {
                gateway::prepare_response(&mut head.headers);
                let _ = receiver.send(head.status, head.headers); // those beyond the bound are dropped
            }
        }
    }

    /// Ready when a timeout has passed: with a cause that of the exchange, without one that of the held body.
    fn poll_expired<I: Io>(
        &self,
        state: &mut State<P, I>,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Cause<P>>> {
        let until = [self.deadline, self.held_until].into_iter().flatten().min();
        if !state.poll_expired(cx, now, until, None) {
            return Poll::Pending;
        }
        let later = clock::now();
        let has_passed = |time: Option<Instant>| time.is_some_and(|time| time <= later);
        Poll::Ready(if has_passed(self.deadline) {
            Some(Cause::Deadline)
        } else if has_passed(self.held_until) {
            None
        } else {
            Some(Cause::Timeout)
        })
    }

    fn fail<I: Io>(
        &mut self,
        connection: Connection<P, I>,
        now: Instant,
        cause: Cause<P>,
    ) -> ExchangeError<P>
    where
        C: Checkin<Connection<P, I>>,
    {
        let delivery = match self.progress {
            Progress::New | Progress::Encoded => Delivery::NotSent,
            Progress::Written if was_refused(&connection, &cause) => Delivery::NotSent,
            Progress::Written => Delivery::MaybeSent,
            Progress::Answered => Delivery::Answered,
        };
        // All that came of the body was written, and it has not ended.
        let awaits_body = self.upload.is_some()
            && self.held_until.is_none()
            && connection.state.output.is_empty();
        let body = match self.progress {
            Progress::New => self.upload.take().map(Upload::into_body),
            Progress::Encoded | Progress::Written => self.replay.take().or_else(|| {
                // A body that was held back has not been read.
                let upload = self.upload.take().filter(|_| self.held_until.is_some());
                upload.map(Upload::into_body)
            }),
            Progress::Answered => None,
        };
        let keeps_connection = self.progress == Progress::New && connection.is_reusable();
        match self.checkin.take() {
            Some(checkin) if keeps_connection => checkin.checkin(connection, now),
            checkin => {
                drop(connection); // before what `checkin` holds of the pool
                drop(checkin);
            }
        }
        let parts = self.parts.take();
        let request = parts.zip(body).map(|(p, body)| Box::new(Request::from_parts(p, body)));
        ExchangeError { cause, delivery, request, awaits_body }
    }
}

/// Returns whether the server has closed a reused connection in a way that shows that it did not begin the request.
fn was_refused<P: Protocol, I: Io>(connection: &Connection<P, I>, cause: &Cause<P>) -> bool {
    let State { io, core, exchanges, .. } = &*connection.state;
    core.half_close_refuses()
        && *exchanges > 1
        && matches!(cause, Cause::Closed)
        && io.is_half_closed()
}

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Exchange<P, I, C> {
    /// Polls the exchange at `now`, for a caller that has just read the clock.
    pub(crate) fn poll_at(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, ExchangeError<P>>> {
        let Self { connection, outgoing } = self;
        let state = &mut *connection.as_mut().expect(ENDED).state;
        state.output.borrow_buffer();
        let result = outgoing.poll_head(state, now, cx);
        state.output.return_buffer();
        let Poll::Ready(result) = result else { return Poll::Pending };
        let connection = connection.take().expect(ENDED);
        Poll::Ready(match result {
            Ok(parts) => {
                outgoing.respond(connection, now, parts).map_err(ExchangeError::after_answer)
            }
            Err(cause) => Err(outgoing.fail(connection, now, cause)),
        })
    }
}

impl<P: Protocol, I: Io + 'static, C: Checkin<Connection<P, I>>> Future for Exchange<P, I, C> {
    type Output = Result<Response<Body>, ExchangeError<P>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_at(clock::now(), cx)
    }
}

impl<P: Protocol, I, C> Unpin for Exchange<P, I, C> {}

impl<P: Protocol, I, C> fmt::Debug for Exchange<P, I, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("is_connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
