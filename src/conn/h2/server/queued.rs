//! `Queued`: the last data of a stream, which was passed to `h2`, until it is written.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::SendStream;

use crate::{
    conn::h2::unsent::Unsent,
    peer::{MinRate, RateMeter},
};

/// Data that waits to be written. `h2` takes no more data than the client's windows admit, but a client can shrink
/// the window of a stream again (RFC 9113 section 6.9.2). So the client has the timeout of a response that is not yet
/// passed to `h2`.
pub(super) struct Queued {
    pub(super) last: Last,
    /// The time of the last progress.
    since: Instant,
    meter: RateMeter,
}

/// The last data of a stream.
pub(super) enum Last {
    /// A complete response. The exchange ends when its last frame is written.
    Response(SendStream<Bytes>),
    /// The data of a response that was aborted in its body. The stream is reset when the data is written: `h2` discards
    /// what it holds when it resets a stream.
    Aborted(SendStream<Bytes>),
    /// The data of a tunnel that has ended, with the number of all bytes that were written to it. `is_complete` is `false`
    /// after a panic. The stream is reset when `h2` has encoded the data, unless the tunnel has shut it down.
    Tunnel { unsent: Arc<Unsent>, written: u64, is_complete: bool },
}

impl Queued {
    pub(super) fn new(last: Last, rate: MinRate, now: Instant) -> Self {
        Self { last, since: now, meter: RateMeter::start(rate, now) }
    }

    /// Ready when the client has reset the stream, and for a tunnel when its data is encoded. Returns whether the exchange is
    /// complete.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.last {
            Last::Response(stream) | Last::Aborted(stream) => stream.poll_reset(cx).map(|_| false),
            Last::Tunnel { unsent, is_complete, .. } => {
                ready!(unsent.poll_empty(cx));
                Poll::Ready(*is_complete)
            }
        }
    }

    /// Returns whether it is a tunnel of which a connection has failed.
    pub(super) fn has_failed(&self) -> bool {
        matches!(&self.last, Last::Tunnel { unsent, .. } if unsent.has_failed())
    }

    /// Records that `len` bytes of the response were written. Until then data of the connection waited for the socket,
    /// since `socket_wait` if it did: that time does not count for the rate, since `h2` sends frames of all streams in turn.
    pub(super) fn record_sent(
        &mut self,
        rate: MinRate,
        now: Instant,
        socket_wait: Option<Instant>,
        len: usize,
    ) {
        if let Some(began) = socket_wait {
            self.meter.extend(now.saturating_duration_since(began.max(self.since)));
        }
        self.since = now;
        self.meter.record(rate, now, len as u64);
    }

    /// Records progress at `at`: until then, the response waited for the socket, whose deadline is that of the connection.
    pub(super) fn record_progress(&mut self, at: Instant) {
        self.meter.extend(at.saturating_duration_since(self.since));
        self.since = at.max(self.since);
    }

    /// Returns the time at which the client is too slow.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        [self.since.checked_add(timeout), self.meter.deadline()].into_iter().flatten().min()
    }
}
