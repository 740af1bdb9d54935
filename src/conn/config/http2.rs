//! `Http2Config`: the options of a connection that apply to HTTP/2 only.

use std::time::Duration;

use crate::proto::h2::FrameLimits;

/// The options of a connection that apply to HTTP/2 only. All bounds are announced in the first SETTINGS frame,
/// where it has a name for them.
#[derive(Debug, Clone)]
pub struct Http2Config {
    pub(crate) max_streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) send_buffer: usize,
    pub(crate) frames: FrameLimits,
    pub(crate) linger: Duration,
    pub(crate) linger_bytes: u64,
    pub(crate) extended_connect: bool,
}

impl Http2Config {
    /// Creates the default options.
    pub const fn new() -> Self {
        Self {
            max_streams: 100,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            send_buffer: 256 << 10,
            frames: FrameLimits::new(),
            linger: Duration::from_secs(5),
            linger_bytes: 1 << 20,
            extended_connect: true,
        }
    }

    /// Sets how many requests of a connection may be under way at once, at least 1. Defaults to 100, the least that RFC 9113
    /// section 6.5.2 recommends. A [gate](super::Config::gate) whose [total](crate::net::Gate::total) is known lowers it.
    /// The bound is announced when the connection begins, and stays the same when the gate's total changes.
    ///
    /// It is a bound on streams and on work. The client may begin another stream as soon as it has reset one. But the
    /// service is called for it only when less than `n` futures of the service and bodies of responses are left: those of
    /// a stream that was reset are dropped first. Work that goes on without them, such as that of a worker, counts in the
    /// gate and in the service's readiness.
    #[must_use]
    pub fn max_streams(mut self, n: u32) -> Self {
        self.max_streams = n.max(1);
        self
    }

    /// Sets how many bytes of one request's body the client may send ahead of its reader, at least 1. Defaults to
    /// 256 KiB: with a round trip of 50 ms, 5 MiB a second.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        // A window of 0 would let no body begin.
        self.stream_window = bytes.clamp(1, MAX_WINDOW);
        self
    }

    /// Sets the same for all requests of a connection together, at least 1. Defaults to 1 MiB.
    #[must_use]
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes.clamp(1, MAX_WINDOW);
        self
    }

    /// Sets how many bytes of one response may be queued for the connection, at least 1 and at most 2 GiB, the largest
    /// window. Defaults to 256 KiB. Of all its responses whose bodies are streamed, the connection queues about four times as
    /// much, and a quarter of it above the soft limit of the budget. Then each response sends one piece of its body in turn,
    /// as the client reads. Bodies with a known length of at most 16 KiB do not wait.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        // No window admits more, and `h2` panics above `u32::MAX`.
        self.send_buffer = bytes.clamp(1, MAX_WINDOW as usize);
        self
    }

    /// Sets bounds on frames that are no requests. Default: see [`FrameLimits`].
    #[must_use]
    pub fn frames(mut self, limits: FrameLimits) -> Self {
        self.frames = limits;
        self
    }

    /// Sets how long a connection is read after its last frame, so that the end of a response, or GOAWAY, reaches a client
    /// that is still sending: at least the windows that it releases. Defaults to 5 s, as with HTTP/1.1. It ends earlier when
    /// the client closes the connection.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// Sets how many bytes are read and discarded in that time. Defaults to 1 MiB.
    #[must_use]
    pub fn linger_bytes(mut self, bytes: u64) -> Self {
        self.linger_bytes = bytes;
        self
    }

    /// Sets whether WebSockets by extended CONNECT are announced (RFC 8441). On by default.
    #[must_use]
    pub fn extended_connect(mut self, on: bool) -> Self {
        self.extended_connect = on;
        self
    }
}

/// The largest window (RFC 9113 section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

impl Default for Http2Config {
    fn default() -> Self {
        Self::new()
    }
}
