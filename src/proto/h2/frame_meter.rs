//! `FrameMeter`: counts the frames that a client sends beside its requests.

use std::time::{Duration, Instant};

use super::PREFACE;

/// The time in which frames are counted, 10 s.
const WINDOW: Duration = Duration::from_secs(10);

/// Bytes of a frame's header (RFC 9113 section 4.1).
const HEADER: usize = 9;

/// Length from which a DATA frame is not small: 256 bytes, as for the crate `h2`.
const SMALL_DATA: usize = 256;

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

/// The bits of a stream's number; the first one is reserved.
const STREAM_ID: u32 = (1 << 31) - 1;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bounds on frames that cost work and are no requests: the maximum number of each within ten seconds, without those
/// that the client's requests and their responses allow.
///
/// Clients send some of these frames for each request or for each DATA frame that they receive, so a fixed rate would
/// refuse a fast client with a small window. Each of these allows its frames beyond the bound, whenever the client sends
/// them:
///
/// | for each | are allowed |
/// |---|---|
/// | request, by HEADERS on a new stream | 2 WINDOW_UPDATE, 2 PRIORITY, 2 of unknown types, 4 CONTINUATION, 1 empty DATA, 1 HEADERS (trailers) |
/// | DATA of the client, with content | 1 empty DATA |
/// | DATA that was sent to it, with content | 1 PING, 2 WINDOW_UPDATE, and 2 more for each KiB |
/// | complete response | 1 RST_STREAM, up to twice the bound at once |
///
/// A RST_STREAM for the same stream as the one before cancels nothing: some clients send one for each DATA frame that
/// arrives after they have cancelled a request. It counts as a WINDOW_UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameLimits {
    /// PING without ACK, each of which is answered. gRPC sends one for each DATA frame that it measures. Default 100.
    pub pings: u32,
    /// SETTINGS without ACK, each of which is answered. Default 50.
    pub settings: u32,
    /// RST_STREAM: requests that were started and cancelled (CVE-2023-44487). Default 200.
    pub resets: u32,
    /// DATA without content that does not end its stream. Default 100. In a connection of [`conn`](crate::conn), the crate
    /// `h2` allows 100 of them over its life, whatever requests and data allow.
    pub empty_data: u32,
    /// CONTINUATION. Default 200.
    pub continuations: u32,
    /// PRIORITY, which is ignored. Default 500.
    pub priorities: u32,
    /// WINDOW_UPDATE: one of the stream and one of the connection for each DATA frame are common. Default 2,000.
    pub window_updates: u32,
    /// Frames of unknown types, for example PRIORITY_UPDATE (RFC 9218), those that a client must not send, such as
    /// HEADERS that are neither a request nor trailers, and those of which it needs few: GOAWAY, and PING with ACK, since a
    /// server seldom sends a PING. Default 100.
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
#[error("more than {limit} {frames} in ten seconds, without requests or data that explain them")]
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
    /// Frames of each kind that requests and responses allow, and that were not sent yet. They do not expire: a client
    /// may receive data at the end of one window and acknowledge it in the next.
    allowed: [u32; KINDS.len()],
    /// The last stream that a request has opened.
    last_stream: u32,
    /// The stream of the last RST_STREAM.
    last_reset: u32,
    /// DATA frames with little content since they were last taken.
    small_data: u32,
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

const PINGS: usize = 0;
const RESETS: usize = 2;
const EMPTY_DATA: usize = 3;
const CONTINUATIONS: usize = 4;
const PRIORITIES: usize = 5;
const WINDOW_UPDATES: usize = 6;
const UNKNOWN: usize = 7;

/// The frames that a request allows. Its trailers are counted with those of unknown types.
const FOR_REQUEST: [(usize, u32); 5] =
    [(EMPTY_DATA, 1), (CONTINUATIONS, 4), (PRIORITIES, 2), (WINDOW_UPDATES, 2), (UNKNOWN, 3)];

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
            allowed: [0; KINDS.len()],
            last_stream: 0,
            last_reset: 0,
            small_data: 0,
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

    /// Records a DATA frame that was sent to the client.
    pub fn record_sent_data(&mut self, len: usize) {
        if len > 0 {
            let kibibytes = u32::try_from(len >> 10).unwrap_or(u32::MAX);
            self.allow(PINGS, 1);
            self.allow(WINDOW_UPDATES, kibibytes.saturating_add(1).saturating_mul(2));
        }
    }

    /// Records the end of a response.
    pub fn record_sent_end(&mut self) {
        self.allow(RESETS, 1);
        // Each cancelled request may have begun work, so they must not be saved for a flood.
        self.allowed[RESETS] = self.allowed[RESETS].min(self.limits.resets);
    }

    /// Returns the number of DATA frames with less than 256 bytes since the last call of
    /// [`reset_small_data`](Self::reset_small_data). Each of them takes more memory than its content.
    pub fn small_data(&self) -> u32 {
        self.small_data
    }

    /// Sets the number of small DATA frames to 0.
    pub fn reset_small_data(&mut self) {
        self.small_data = 0;
    }

    /// Returns since when a header block is incomplete, if one is: a slow head (RFC 9113 section 4.3).
    pub fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    fn count_frame(&mut self, now: Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & STREAM_ID;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if self.window_began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            self.window_began = Some(now);
            self.counts = [0; KINDS.len()];
        }
        let l = self.limits;
        let (kind, limit) = match kind {
            HEADERS | CONTINUATION => {
                self.head_since.get_or_insert(now);
                self.ends_block = flags & END_HEADERS != 0;
                if kind == HEADERS && stream > self.last_stream {
                    self.last_stream = stream;
                    FOR_REQUEST.iter().for_each(|(kind, n)| self.allow(*kind, *n));
                    return Ok(());
                }
                if kind == HEADERS {
                    (UNKNOWN, l.unknown)
                } else {
                    (CONTINUATIONS, l.continuations)
                }
            }
            DATA if self.skip > 0 => {
                self.small_data += u32::from(self.skip < SMALL_DATA);
                self.allow(EMPTY_DATA, 1);
                return Ok(());
            }
            DATA if flags & END_STREAM == 0 => (EMPTY_DATA, l.empty_data),
            DATA => return Ok(()),
            SETTINGS if flags & ACK != 0 => return Ok(()), // an unexpected one is an error of the connection
            PING if flags & ACK != 0 => (UNKNOWN, l.unknown),
            GOAWAY => (UNKNOWN, l.unknown),
            PING => (PINGS, l.pings),
            SETTINGS => (1, l.settings),
            RST_STREAM if stream == self.last_reset => (WINDOW_UPDATES, l.window_updates),
            RST_STREAM => {
                self.last_reset = stream;
                (RESETS, l.resets)
            }
            PRIORITY => (PRIORITIES, l.priorities),
            WINDOW_UPDATE => (WINDOW_UPDATES, l.window_updates),
            PUSH_PROMISE.. => (UNKNOWN, l.unknown),
        };
        if let Some(left) = self.allowed[kind].checked_sub(1) {
            self.allowed[kind] = left;
            return Ok(());
        }
        self.counts[kind] += 1;
        if self.counts[kind] > limit { Err(Flood { frames: KINDS[kind], limit }) } else { Ok(()) }
    }

    fn allow(&mut self, kind: usize, n: u32) {
        self.allowed[kind] = self.allowed[kind].saturating_add(n);
    }
}

#[cfg(test)]
mod tests;
