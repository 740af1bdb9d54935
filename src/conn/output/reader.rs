//! `SlowReader`: the progress of a peer that reads more slowly than the server writes.

use std::time::{Duration, Instant};

use crate::{
    net::Io,
    peer::{MinRate, RateMeter},
};

/// Bytes per second of a fast reader, 1 MiB.
const FAST_RATE: u64 = 1 << 20;

/// Bytes that a peer must have taken before its rate counts, 256 KiB: several times what its kernel buffers for
/// a program that does not read. Until then a response costs a wake-up for each 128 KiB or so, and a file of
/// 1 MiB is sent by five system calls instead of three.
const FAST_AFTER: u64 = 256 << 10;

/// Updates within the timeout of a peer that takes nothing: 10. The kernel does not tell when its send queue shrank, so
/// progress counts from the update that sees it, and a peer is given up after 1.0 to 1.1 of its timeout.
const UPDATES_PER_TIMEOUT: u32 = 10;

/// The progress of a peer since a write first had to wait for it.
///
/// Progress is data that has left the kernel's send queue, not data that the kernel accepts: the queue grows
/// and shrinks by itself, and a write that fills it says nothing about the peer.
#[derive(Debug)]
pub(in crate::conn) struct SlowReader {
    began: Instant,
    /// Bytes in the kernel's send queue at the beginning; `None` if unknown.
    queued: Option<u64>,
    /// Bytes that the socket had accepted at the beginning, if the stream accepts bytes before it.
    written: Option<u64>,
    /// Bytes that the kernel has accepted since the beginning.
    accepted: u64,
    /// Bytes that the peer had taken since the beginning, at the last update.
    taken: u64,
    /// The last update that found `taken` grown.
    last_progress: Instant,
    last_update: Instant,
    rate_meter: RateMeter,
    /// The time since which no data waits for the peer, while its clock is stopped.
    paused_since: Option<Instant>,
    reported_fast: bool,
}

impl SlowReader {
    /// Starts the measurement, at the first write that has to wait for the peer of `io`.
    pub(in crate::conn) fn begin(io: &impl Io, now: Instant, rate: MinRate) -> Self {
        Self {
            began: now,
            queued: io.send_queue_len(),
            written: io.socket_written(),
            accepted: 0,
            taken: 0,
            last_progress: now,
            last_update: now,
            rate_meter: RateMeter::start(rate, now),
            paused_since: None,
            reported_fast: false,
        }
    }

    /// Adds bytes that the stream has accepted.
    pub(in crate::conn) fn add_accepted(&mut self, bytes: u64) {
        self.accepted += bytes;
    }

    /// Stops the peer's clock: no data waits for it, or something else delays the data.
    pub(super) fn pause(&mut self, now: Instant) {
        self.paused_since.get_or_insert(now);
    }

    /// Starts the peer's clock again; the pause does not count.
    pub(super) fn resume(&mut self, now: Instant) {
        let Some(paused) = self.paused_since.take() else { return };
        let pause = now.saturating_duration_since(paused);
        self.last_progress += pause;
        self.last_update += pause;
        self.rate_meter.extend(pause);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.paused_since.is_none()
    }

    /// Counts what the peer has taken since the last update, and so moves its deadline.
    pub(in crate::conn) fn update(&mut self, io: &impl Io, now: Instant, rate: MinRate) {
        self.last_update = now;
        if let (Some(before), Some(written)) = (self.written, io.socket_written()) {
            self.accepted = written.saturating_sub(before);
        }
        let taken = match self.queued {
            None => self.accepted,
            Some(queued) => match io.send_queue_len() {
                Some(left) => (queued + self.accepted).saturating_sub(left),
                None => return,
            },
        };
        // `taken` can shrink: a Unix socket's queue is counted with its overhead.
        let progress = taken.saturating_sub(self.taken);
        self.taken = taken;
        if progress > 0 {
            self.last_progress = now;
            self.rate_meter.record(rate, now, progress);
        }
    }

    /// Returns the time at which the peer is too slow if it takes nothing until then: it must make progress
    /// within `timeout`, and keep the minimum rate. `None` if no data waits for it.
    pub(in crate::conn) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        if self.paused_since.is_some() {
            return None;
        }
        [self.last_progress.checked_add(timeout), self.rate_meter.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the time of the first write that had to wait for the peer.
    #[cfg(feature = "h2")]
    pub(in crate::conn) fn began(&self) -> Instant {
        self.began
    }

    /// Returns the time at which the peer was last seen to have taken data, or the beginning.
    #[cfg(feature = "h2")]
    pub(in crate::conn) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// Returns the time of the next [update](Self::update), at most the [deadline](Self::deadline).
    pub(in crate::conn) fn next_update(&self, timeout: Duration) -> Option<Instant> {
        let deadline = self.deadline(timeout)?;
        let next = self.last_update.checked_add(timeout / UPDATES_PER_TIMEOUT);
        Some(next.map_or(deadline, |next| next.min(deadline)))
    }

    /// Returns `true` once, when the peer has taken 256 KiB at 1 MiB per second or more.
    pub(super) fn report_fast(&mut self) -> bool {
        let elapsed = self.last_progress.saturating_duration_since(self.began);
        let is_fast = self.accepted >= FAST_AFTER
            && u128::from(self.accepted) * 1000 >= u128::from(FAST_RATE) * elapsed.as_millis();
        is_fast && !std::mem::replace(&mut self.reported_fast, true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use tokio::io::duplex;

    use super::*;
    use crate::conn::testing::FullSocket;

    #[test]
    fn peer_that_stops_is_given_up_within_a_tenth_of_the_timeout() {
        const TIMEOUT: Duration = Duration::from_secs(60);
        let began = crate::net::clock::now();
        for last_taken in [0, 1, 7, 40, 59, 61] {
            let queue = Arc::new(AtomicU64::new(1000));
            let io = FullSocket(queue.clone());
            let mut reader = SlowReader::begin(&io, began, MinRate::NONE);
            let is_given_up = |&second: &u64| {
                let now = began + Duration::from_secs(second);
                let has_passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
                if second <= last_taken {
                    queue.fetch_sub(1, Relaxed);
                }
                if has_passed(reader.next_update(TIMEOUT)) {
                    reader.update(&io, now, MinRate::NONE);
                }
                has_passed(reader.deadline(TIMEOUT))
            };
            let stalled = (0..200).find(is_given_up).unwrap() - last_taken;
            assert!(
                (60..=66).contains(&stalled),
                "{stalled} s after the last byte at {last_taken} s"
            );
        }
    }

    #[test]
    fn fast_reader_is_reported_once_after_256_kib_at_1_mib_per_second() {
        let (io, _peer) = duplex(1);
        let (rate, began) = (MinRate::NONE, crate::net::clock::now());
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
