//! `FrameMeter`: counts the frames that a client sends beside its requests.

use std::time::{Duration, Instant};

use super::PREFACE;

/// The time in which frames are counted, 10 s.
const WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bounds on frames that cost work and are no requests: the maximum number of each within ten seconds.
///
/// The defaults are several times what browsers, curl and gRPC send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameLimits {
    /// PING without ACK, each of which is answered. Default 100.
    pub pings: u32,
    /// SETTINGS without ACK, each of which is answered. Default 50.
    pub settings: u32,
    /// RST_STREAM: requests that were started and cancelled (CVE-2023-44487). Default 200.
    pub resets: u32,
    /// DATA without content that does not end its stream. Default 100.
    pub empty_data: u32,
    /// CONTINUATION. Default 200.
    pub continuations: u32,
    /// PRIORITY, which is ignored. Default 500.
    pub priorities: u32,
    /// WINDOW_UPDATE beyond one for each KiB that was sent. Default 2,000.
    pub window_updates: u32,
    /// Frames of unknown types, and those that a client must not send. Default 100.
    pub unknown: u32,
}

impl FrameLimits {
    /// Creates the default limits.
    pub const fn new() -> Self {
        Self {
            pings: 100,
            settings: 50,
            resets: 200,
            empty_data: 100,
            continuations: 200,
            priorities: 500,
            window_updates: 2_000,
            unknown: 100,
        }
    }
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// A client has sent too many frames of one type. The answer is GOAWAY with ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} {frames} in ten seconds")]
pub struct Flood {
    /// The kind of the frames, for example `PING frames`.
    pub frames: &'static str,
    /// The bound.
    pub limit: u32,
}

/// Counts frames in the bytes of a client, preface included.
///
/// ```
/// use std::time::Instant;
/// use vestibule::proto::h2::{FrameLimits, FrameMeter, PREFACE};
///
/// let mut meter = FrameMeter::new(FrameLimits::new());
/// let now = Instant::now();
/// meter.record(now, PREFACE).unwrap();
/// let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// for _ in 0..100 {
///     meter.record(now, &ping).unwrap();
/// }
/// assert!(meter.record(now, &ping).is_err());
/// ```
#[derive(Debug)]
pub struct FrameMeter {
    limits: FrameLimits,
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    header: [u8; HEADER],
    header_len: usize,
    window_began: Option<Instant>,
    counts: [u32; KINDS.len()],
    /// Bytes that were sent to the client in this window.
    sent: u64,
    /// The time of the first frame of an incomplete header block.
    head_since: Option<Instant>,
    /// Whether the block ends with the payload that is being skipped.
    ends_block: bool,
}

/// The counted kinds of frames, for errors.
const KINDS: [&str; 8] = [
    "PING frames",
    "SETTINGS frames",
    "RST_STREAM frames",
    "empty DATA frames",
    "CONTINUATION frames",
    "PRIORITY frames",
    "WINDOW_UPDATE frames",
    "frames of unknown types",
];

impl FrameMeter {
    /// Creates a meter for a client's first byte.
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            skip: PREFACE.len(),
            header: [0; HEADER],
            header_len: 0,
            window_began: None,
            counts: [0; KINDS.len()],
            sent: 0,
            head_since: None,
            ends_block: false,
        }
    }

    /// Records bytes that were read from the client, cut anywhere.
    ///
    /// # Errors
    /// A [`Flood`]; the connection must be ended.
    pub fn record(&mut self, now: Instant, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
            } else {
                let n = (HEADER - self.header_len).min(bytes.len());
                self.header[self.header_len..][..n].copy_from_slice(&bytes[..n]);
                self.header_len += n;
                bytes = &bytes[n..];
                if self.header_len == HEADER {
                    self.header_len = 0;
                    self.count_frame(now)?;
                }
            }
            if self.skip == 0 && std::mem::take(&mut self.ends_block) {
                self.head_since = None;
            }
        }
        Ok(())
    }

    /// Records bytes that were sent to the client.
    pub fn record_sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes as u64);
    }

    /// Returns since when a header block is incomplete, if one is: a slow head (RFC 9113 section 4.3).
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    fn count_frame(&mut self, now: Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.header;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if self.window_began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            self.window_began = Some(now);
            self.counts = [0; KINDS.len()];
            self.sent = 0;
        }
        let l = self.limits;
        let (kind, limit) = match kind {
            HEADERS | CONTINUATION => {
                self.head_since.get_or_insert(now);
                self.ends_block = flags & END_HEADERS != 0;
                if kind == HEADERS {
                    return Ok(());
                }
                (4, l.continuations)
            }
            DATA if self.skip == 0 && flags & END_STREAM == 0 => (3, l.empty_data),
            DATA | GOAWAY => return Ok(()),
            PING | SETTINGS if flags & ACK != 0 => return Ok(()),
            PING => (0, l.pings),
            SETTINGS => (1, l.settings),
            RST_STREAM => (2, l.resets),
            PRIORITY => (5, l.priorities),
            WINDOW_UPDATE => {
                let earned = u32::try_from(self.sent >> 10).unwrap_or(u32::MAX);
                (6, l.window_updates.saturating_add(earned))
            }
            PUSH_PROMISE.. => (7, l.unknown),
        };
        self.counts[kind] += 1;
        if self.counts[kind] > limit { Err(Flood { frames: KINDS[kind], limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "an arbitrary start")]

    use super::*;

    /// A frame on stream 1.
    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u8::try_from(payload.len()).unwrap();
        [&[0, 0, len, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn meter() -> FrameMeter {
        let mut meter = FrameMeter::new(FrameLimits::new());
        meter.record(Instant::now(), PREFACE).unwrap();
        meter
    }

    #[test]
    fn h1_h7_flood_of_each_type_is_found_at_its_limit_and_not_before() {
        for (kind, flags, payload, limit) in [
            (PING, 0, &[0; 8][..], 100),
            (SETTINGS, 0, &[], 50),
            (RST_STREAM, 0, &[0; 4], 200),
            (DATA, 0, &[], 100),
            (CONTINUATION, 0, b"x", 200),
            (PRIORITY, 0, &[0; 5], 500),
            (WINDOW_UPDATE, 0, &[0; 4], 2000),
            (PUSH_PROMISE, 0, &[0; 4], 100),
            (0xaa, 0, b"grease", 100),
        ] {
            let (mut meter, now) = (meter(), Instant::now());
            let one = frame(kind, flags, payload);
            for n in 0..limit {
                assert_eq!(meter.record(now, &one), Ok(()), "{kind}: {n}");
            }
            let flood = meter.record(now, &one).unwrap_err();
            assert_eq!(flood.limit, limit, "{flood}");
        }
    }

    #[test]
    fn useful_frames_are_never_a_flood() {
        let (mut meter, now) = (meter(), Instant::now());
        for _ in 0..10_000 {
            for (kind, flags, payload) in [
                (HEADERS, END_HEADERS, &b"block"[..]),
                (DATA, 0, b"data"),
                (DATA, END_STREAM, b""),
                (PING, ACK, &[0; 8]),
                (SETTINGS, ACK, b""),
            ] {
                meter.record(now, &frame(kind, flags, payload)).unwrap();
            }
            meter.record_sent(1 << 10);
            meter.record(now, &frame(WINDOW_UPDATE, 0, &[0; 4])).unwrap();
        }
    }

    #[test]
    fn counts_start_again_after_ten_seconds_and_cuts_do_not_matter() {
        let (mut meter, now) = (meter(), Instant::now());
        let pings = frame(PING, 0, &[0; 8]).repeat(100);
        for (seconds, is_ok) in [(0, true), (10, true), (15, false)] {
            let now = now + Duration::from_secs(seconds);
            let all = pings.iter().try_for_each(|byte| meter.record(now, &[*byte]));
            assert_eq!(all.is_ok(), is_ok, "{seconds}");
        }
    }

    #[test]
    fn incomplete_header_block_is_reported_with_its_beginning() {
        let (mut meter, now) = (meter(), Instant::now());
        let later = now + Duration::from_secs(5);
        let block = frame(HEADERS, 0, b"block");
        meter.record(now, &block[..3]).unwrap();
        assert_eq!(meter.head_since(), None, "the type has not come yet");
        meter.record(now, &block[3..]).unwrap();
        assert_eq!(meter.head_since(), Some(now));
        let last = frame(CONTINUATION, END_HEADERS, b"rest");
        meter.record(later, &last[..last.len() - 1]).unwrap();
        assert_eq!(meter.head_since(), Some(now));
        meter.record(later, &last[last.len() - 1..]).unwrap();
        assert_eq!(meter.head_since(), None);
        meter.record(later, &frame(HEADERS, END_HEADERS, b"")).unwrap();
        assert_eq!(meter.head_since(), None);
    }
}
