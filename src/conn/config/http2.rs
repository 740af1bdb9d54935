//! `Http2Config`: the options of a connection that apply to HTTP/2 only.

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
            extended_connect: true,
        }
    }

    /// Sets how many requests of a connection may be under way at once. Defaults to 100, the least that RFC 9113
    /// section 6.5.2 recommends. A request counts until its response is complete and its service's future has
    /// ended, whether or not the client has reset it. A [gate](super::Config::gate) whose
    /// [total](crate::net::Gate::total) is known lowers it.
    #[must_use]
    pub fn max_streams(mut self, n: u32) -> Self {
        self.max_streams = n;
        self
    }

    /// Sets how many bytes of one request's body the client may send ahead of its reader. Defaults to 256 KiB:
    /// with a round trip of 50 ms, 5 MiB a second.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes.min(MAX_WINDOW);
        self
    }

    /// Sets the same for all requests of a connection together. Defaults to 1 MiB.
    #[must_use]
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes.min(MAX_WINDOW);
        self
    }

    /// Sets how many bytes of one response may be queued for the connection. Defaults to 256 KiB.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Sets bounds on frames that are no requests. Default: see [`FrameLimits`].
    #[must_use]
    pub fn frames(mut self, limits: FrameLimits) -> Self {
        self.frames = limits;
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
