//! `SlowReader`: how fast a peer takes what is written to it.

use std::time::{Duration, Instant};

use crate::{
    net::Io,
    peer::{Pace, Rate},
};

/// Bytes per second of a fast reader, 1 MiB.
const FAST_RATE: u64 = 1 << 20;

/// Bytes that a peer must have taken before its rate counts, 256 KiB: several times what its kernel takes for a
/// program that does not read. Until then a response costs a wake-up for each 128 KiB or so, and a file of 1 MiB
/// would be sent by five system calls instead of three.
const FAST_AFTER: u64 = 256 << 10;

/// A peer that had to be waited for, and what it has taken since.
///
/// What counts is what has left the kernel's queue, not what the kernel accepts: the queue grows and
/// shrinks by itself, and a write that fills it says nothing about the peer.
#[derive(Debug)]
pub(super) struct SlowReader {
    began: Instant,
    /// Bytes in the kernel's queue at the beginning; `None` if the kernel does not say.
    queued: Option<u64>,
    /// Bytes that the kernel has accepted since the beginning.
    accepted: u64,
    /// Bytes that the peer had taken since the beginning when it was last looked at.
    taken: u64,
    /// When that number was last seen to grow.
    last_progress: Instant,
    pace: Pace,
    /// Since when nothing waits for the peer. Its clock stands still until then.
    paused_since: Option<Instant>,
    reported_fast: bool,
}

impl SlowReader {
    /// A write had to wait for the peer of `io` for the first time.
    pub(super) fn begin(io: &impl Io, now: Instant, rate: Rate) -> Self {
        Self {
            began: now,
            queued: io.unsent(),
            accepted: 0,
            taken: 0,
            last_progress: now,
            pace: Pace::begin(rate, now),
            paused_since: None,
            reported_fast: false,
        }
    }

    /// The kernel has accepted so many bytes more.
    pub(super) fn add_accepted(&mut self, bytes: u64) {
        self.accepted += bytes;
    }

    /// Nothing waits for the peer any more, or not for the peer alone.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_since.get_or_insert(now);
    }

    /// Something waits for the peer again: the pause was not its own.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(paused) = self.paused_since.take() else { return };
        let pause = now.saturating_duration_since(paused);
        self.last_progress += pause;
        self.pace.pause(pause);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.paused_since.is_none()
    }

    /// Counts what the peer has taken since the last look, and so moves its deadline.
    pub(super) fn update(&mut self, io: &impl Io, now: Instant, rate: Rate) {
        let taken = match self.queued {
            None => self.accepted,
            Some(queued) => match io.unsent() {
                Some(left) => (queued + self.accepted).saturating_sub(left),
                None => return,
            },
        };
        // It may have shrunk: a Unix socket's queue is counted with its overhead.
        let progress = taken.saturating_sub(self.taken);
        self.taken = taken;
        if progress > 0 {
            self.last_progress = now;
            self.pace.moved(rate, now, progress);
        }
    }

    /// When the peer will have taken too little, if it takes nothing until then: something within
    /// `timeout`, and what its pace demands. `None` if nothing waits for it.
    pub(super) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        if self.paused_since.is_some() {
            return None;
        }
        [self.last_progress.checked_add(timeout), self.pace.due()].into_iter().flatten().min()
    }

    /// Whether the peer turns out to read fast, though it had to be waited for. Says so once.
    pub(super) fn report_fast(&mut self) -> bool {
        let elapsed = self.last_progress.saturating_duration_since(self.began);
        let is_fast = self.accepted >= FAST_AFTER
            && u128::from(self.accepted) * 1000 >= u128::from(FAST_RATE) * elapsed.as_millis();
        is_fast && !std::mem::replace(&mut self.reported_fast, true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn fast_reader_is_reported_once_after_256_kib_at_1_mib_per_second() {
        let (io, _peer) = duplex(1);
        let (rate, began) = (Rate::ANY, crate::net::clock::now());
        // Bytes, milliseconds since the beginning, and whether that is fast.
        for (bytes, millis, is_fast) in [
            (FAST_AFTER - 1, 1, false),
            (FAST_AFTER, 1, true),
            (FAST_AFTER, 250, true),
            (FAST_AFTER, 251, false),
            (FAST_RATE, 1000, true),
            (FAST_RATE, 1001, false),
        ] {
            let mut reader = SlowReader::begin(&io, began, rate);
            reader.add_accepted(bytes);
            reader.update(&io, began + Duration::from_millis(millis), rate);
            assert_eq!(reader.report_fast(), is_fast, "{bytes} bytes in {millis} ms");
            assert!(!reader.report_fast());
        }
    }
}
