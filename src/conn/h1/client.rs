//! The client's driver: one connection, one exchange at a time, driven by whoever waits for it.

mod exchange;
mod incoming;
mod upload;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::BytesMut;
use http::Request;

use super::super::{
    output::{Output, Then},
    scratch,
    timer::Timer,
};
use crate::{
    body::Body,
    net::{Io, clock},
    peer::Rate,
    proto::h1::{self, Conn, Fault, Limits, Misuse},
};

pub use exchange::Exchange;

/// A connection to a server, between exchanges.
///
/// It has no task of its own: [`exchange`](Self::exchange) is polled by the task that wants the
/// answer, and so is the body of the response. When that body has ended and the connection can
/// serve again, it goes [`Home`].
#[derive(Debug)]
pub struct Connection<I> {
    /// In a box, since a connection moves with every request: out of a pool, into an exchange and
    /// its body, and back.
    state: Box<State<I>>,
}

#[derive(Debug)]
struct State<I> {
    io: I,
    core: Conn<h1::Client>,
    input: BytesMut,
    output: Output,
    timer: Timer,
    write_timeout: std::time::Duration,
}

/// Where a connection goes when its exchange is complete and another may follow.
pub trait Home<I>: Unpin + Send + 'static {
    /// Takes the connection back, at this time.
    fn back(self, connection: Connection<I>, now: Instant);
}

/// A home for connections that serve once.
#[derive(Debug, Clone, Copy)]
pub struct Once;

impl<I> Home<I> for Once {
    fn back(self, _: Connection<I>, _: Instant) {}
}

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The connection broke.
    #[error("connection to the server failed")]
    Io(#[from] io::Error),
    /// The server ended the connection before it answered.
    #[error("server closed the connection before it answered")]
    Closed,
    /// The server broke the protocol.
    #[error("server sent no valid response")]
    Fault(#[from] Fault),
    /// The server took too long.
    #[error("server too slow")]
    Timeout,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Misuse(#[from] Misuse),
    /// The request's body failed on its way here.
    #[error("request body failed")]
    Body(#[source] crate::BoxError),
}

/// A failed exchange.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failed {
    /// Why.
    pub cause: Cause,
    /// The request and its prepared lines, if the server has not answered a byte of it and it can
    /// be sent again as it was. Whether it may be is for its method to say.
    pub request: Option<Box<(Request<Body>, BytesMut)>>,
}

impl<I: Io> Connection<I> {
    /// A connection at its beginning.
    ///
    /// Of `limits`, `head_timeout` is the time from the end of the request to the head of the
    /// response, and `body_timeout` bounds each pause in its body, and in sending.
    pub fn new(io: I, limits: Arc<Limits>) -> Self {
        let now = clock::now();
        let state = State {
            io,
            write_timeout: limits.body_timeout,
            core: Conn::new(limits, now),
            input: BytesMut::new(),
            output: Output::default(),
            timer: Timer::default(),
        };
        Self { state: Box::new(state) }
    }

    /// Can it serve an exchange now? Not after the server has closed it, or sent something that
    /// nobody asked for. Costs no system call on a connection that is as it was left.
    pub fn poll_usable(&mut self, cx: &mut Context<'_>) -> bool {
        let State { io, core, input, .. } = &mut *self.state;
        if !core.is_idle() || !input.is_empty() {
            return false;
        }
        // Outside of the task's budget: a read that the budget cuts short says nothing of the
        // connection, and is pending too.
        let quiet = poll_fn(|cx| Poll::Ready(scratch::poll_read(io, cx, input).is_pending()));
        pin!(tokio::task::unconstrained(quiet)).poll(cx) == Poll::Ready(true)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// `prepared` is whole field lines, written behind the request's own. The response's body
    /// holds the connection until it has ended.
    pub fn exchange<H>(self, request: Request<Body>, prepared: BytesMut, home: H) -> Exchange<I, H>
    where
        H: Home<I>,
    {
        Exchange::new(self, request, prepared, home)
    }

    fn is_reusable(&self) -> bool {
        let State { core, input, output, .. } = &*self.state;
        core.is_idle() && input.is_empty() && output.is_empty()
    }
}

impl<I: Io> State<I> {
    /// Reads what has come; `Ok(0)` is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.core.reads_body() {
            let left = self.core.body_left();
            return scratch::poll_read_body(&mut self.io, cx, &mut self.input, left);
        }
        scratch::poll_read(&mut self.io, cx, &mut self.input)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let something = !self.output.is_empty();
        let result = self.output.poll_flush(&mut self.io, cx, now, Rate::ANY, Then::Wait);
        if something && self.output.is_empty() && !self.core.writes_body() {
            self.core.resume(now); // the request is out: from here on the answer is waited for
        }
        result
    }

    /// Has the server exceeded its time, in reading or in writing?
    fn poll_expired(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let writing = self.output.deadline(self.write_timeout);
        if writing.is_some_and(|d| d <= now) {
            self.output.look_closer(&self.io, now, Rate::ANY);
        }
        let deadline = if self.output.is_waiting() {
            self.output.deadline(self.write_timeout)
        } else {
            self.core.deadline()
        };
        self.timer.poll(cx, deadline, now)
    }
}
