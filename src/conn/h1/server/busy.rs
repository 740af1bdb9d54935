//! What a connection owns only while it is not idle, lent by its thread.

use std::{cell::Cell, sync::Arc, time::Instant};

use bytes::BytesMut;
use http::Request;

use crate::{
    Budget,
    body::{Body, Sender},
    budget::Lease,
    conn::output::Output,
    net::GateWaiting,
    proto::h1::{Conn, Limits, Rest, Server},
};

thread_local! {
    /// As connections wake and rest within one poll, mostly, one serves all of a thread.
    static SPARE: Cell<Option<Box<Busy>>> = const { Cell::new(None) };
}

/// Idle or not. An idle connection is one of thousands: it keeps only what it cannot do without.
#[derive(Debug)]
pub(super) enum Phase {
    Resting(Rest),
    Busy(Box<Busy>),
}

/// An exchange, and what has come of the next or is still to be written.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) core: Conn<Server>,
    pub(super) input: BytesMut,
    pub(super) output: Output,
    pub(super) stage: Stage,
    /// Feeds the body of the present request, while it is not complete.
    pub(super) upload: Option<Sender>,
    /// The upload's reader was ready for more when last asked.
    pub(super) upload_wanted: bool,
    /// What it has of the budget, for what waits here between two polls.
    pub(super) lease: Option<Lease>,
    /// Waits at the gate before the next head.
    pub(super) gate: GateWaiting,
    /// Since when it is the service that is waited for, not the client.
    pub(super) asked: Instant,
    /// The client has ended its sending half.
    pub(super) ended: bool,
    /// The request broke the protocol, or was too slow, in its body.
    pub(super) faulted: bool,
    /// The response ends with the connection, and is not yet sent to its end: a close now would
    /// say that it is whole.
    pub(super) open_ended: bool,
}

/// Where the present exchange is.
///
/// ```text
///   Head ──▶ Admit ──▶ Call ──▶ Respond ──▶ Drain ──▶ Head ...
///                                   └────────┴──▶ Close ──▶ Linger ──▶ (end)
/// ```
#[derive(Debug)]
pub(super) enum Stage {
    /// A head is read.
    Head,
    /// The head is complete; the service's readiness is awaited, until this time.
    Admit(Box<Request<Body>>, Instant),
    /// The service works; its future is in [`Link::call`](super::link::Link).
    Call,
    /// A body that comes in pieces is sent.
    Respond(Body),
    /// The response is sent; the rest of the request, at most so many bytes, is dropped.
    Drain(u64),
    /// What is written is flushed, then the connection ends; `linger` if the client may still be
    /// sending.
    Close {
        linger: bool,
    },
    /// Nothing more is written. What comes is dropped, at most so many bytes, until this time.
    Linger(u64, Instant),
    End,
}

impl Phase {
    /// What the next poll works with.
    pub(super) fn wake(&mut self, limits: &Arc<Limits>) -> &mut Busy {
        if let Self::Resting(rest) = *self {
            let busy = match SPARE.take() {
                Some(mut spare) => {
                    spare.core.wake(limits, rest);
                    spare
                }
                None => Box::new(Busy::new(limits, rest)),
            };
            *self = Self::Busy(busy);
        }
        match self {
            Self::Busy(busy) => busy,
            Self::Resting(_) => unreachable!("it was woken just above"),
        }
    }

    /// Gives back what an idle connection does not need: all, its buffers included, which then
    /// serve the next one's heads.
    pub(super) fn settle(&mut self, budget: &Budget) {
        let Self::Busy(busy) = self else { return };
        let Some(rest) = busy.rest() else {
            if busy.input.is_empty() {
                // Nor does one that waits for its service. Without capacity it may still share one.
                busy.input = BytesMut::new();
            }
            busy.output.return_buffer();
            busy.count(budget);
            return;
        };
        busy.output.keep_buffer();
        busy.lease = None;
        if let Self::Busy(busy) = std::mem::replace(self, Self::Resting(rest)) {
            let old = SPARE.replace(Some(busy));
            if let Some(mut old) = old {
                old.output.return_buffer(); // for those that are not at rest
            }
        }
    }
}

impl Busy {
    fn new(limits: &Arc<Limits>, rest: Rest) -> Self {
        Self {
            core: Conn::resting(limits.clone(), rest),
            asked: rest.since(),
            lease: None,
            gate: GateWaiting::default(),
            input: BytesMut::new(),
            output: Output::default(),
            stage: Stage::Head,
            upload: None,
            upload_wanted: false,
            ended: false,
            faulted: false,
            open_ended: false,
        }
    }

    /// Counts a head, or requests, that came in part, and what a slow client has not taken.
    fn count(&mut self, budget: &Budget) {
        let held = (self.input.len() + self.output.held()) as u64;
        if held > 0 || self.lease.is_some() {
            self.lease.get_or_insert_with(|| budget.memory()).set(held);
        }
    }

    /// How to go on later, if everything but that is as in a new one.
    fn rest(&self) -> Option<Rest> {
        let Self { core, input, output, stage, upload, gate, ended, faulted, open_ended, .. } =
            self;
        let as_new = matches!(stage, Stage::Head)
            && input.is_empty()
            && output.is_empty()
            && upload.is_none()
            && !gate.is_waiting()
            && !(*ended || *faulted || *open_ended);
        if as_new { core.rest() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tower::service_fn;

    use super::*;
    use crate::{Response, conn::h1::server::Connection, net::Watch, peer::Peer};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn is_resting<I, S>(connection: &Connection<I, S>) -> bool
    where
        I: crate::net::Io,
        S: tower_service::Service<Request<Body>>,
    {
        matches!(connection.phase, Phase::Resting(_))
    }

    #[tokio::test]
    async fn an_idle_connection_owns_no_buffer_and_its_thread_one() {
        let hello = service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let (mut client, io) = tokio::io::duplex(1 << 10);
        let mut connection =
            Connection::new(io, Peer::memory(), hello, Arc::default(), Watch::never());
        for _ in 0..2 {
            assert!(is_resting(&connection));
            client.write_all(&REQUEST[..9]).await.unwrap();
            assert!(is_pending(&mut connection));
            assert!(!is_resting(&connection), "half a head is kept");
            client.write_all(&REQUEST[9..]).await.unwrap();
            assert!(is_pending(&mut connection));
            let mut answer = [0; 1 << 10];
            assert!(client.read(&mut answer).await.unwrap() > 0);
        }
        let mut spare = SPARE.take().expect("given back");
        assert!(spare.input.try_reclaim(REQUEST.len()), "nobody else has the buffer");
    }

    /// Polls once; is it pending?
    fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::Pin::new(future).poll(&mut cx).is_pending()
    }

    #[tokio::test]
    async fn a_connection_goes_on_with_its_own_limits_whatever_box_it_is_lent() {
        let now = Instant::now();
        let [short, long] = [1, 100].map(|s| {
            let idle_timeout = std::time::Duration::from_secs(s);
            Arc::new(Limits { idle_timeout, head_timeout: idle_timeout, ..Limits::default() })
        });
        for (limits, seconds) in [(&short, 1), (&long, 100), (&short, 1)] {
            let mut phase = Phase::Resting(Rest::new(now));
            let deadline = phase.wake(limits).core.deadline().unwrap();
            assert_eq!((deadline - now).as_secs(), seconds);
            phase.settle(&Budget::default());
            assert!(matches!(phase, Phase::Resting(_)));
        }
    }
}
