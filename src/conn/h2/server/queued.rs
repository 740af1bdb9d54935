//! `Queued`: a response that was passed to `h2` as a whole, until its last frame is written.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{Reason, SendStream};

use crate::peer::{MinRate, RateMeter};

/// A response that waits to be written. `h2` takes no more data than the client's windows admit, but a client can shrink
/// the window of a stream again (RFC 9113 section 6.9.2). So the client has the timeout of a response that is not yet
/// passed to `h2`.
pub(super) struct Queued {
    pub(super) stream: SendStream<Bytes>,
    /// The time of the last progress.
    since: Instant,
    meter: RateMeter,
}

impl Queued {
    pub(super) fn new(stream: SendStream<Bytes>, rate: MinRate, now: Instant) -> Self {
        Self { stream, since: now, meter: RateMeter::start(rate, now) }
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

    /// Resets the stream, so that the client sees the response as incomplete.
    pub(super) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
