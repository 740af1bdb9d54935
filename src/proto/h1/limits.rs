//! Every bound of the HTTP/1.1 core on sizes and times.

use std::time::Duration;

use super::Lenient;
use crate::peer::MinRate;

/// Bounds on one connection. The defaults are safe for servers on the internet.
///
/// The status in brackets is that of a server's answer to a request that exceeds the bound; a client
/// fails the response.
///
/// ```
/// use std::time::Duration;
/// use vestibule::proto::h1::Limits;
///
/// // An application with very large cookies, for clients on a local network.
/// let limits = Limits::new().max_head_bytes(64 << 10).head_timeout(Duration::from_secs(5));
/// # drop(limits);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) start_line_bytes: usize,
    pub(crate) method_bytes: usize,
    pub(crate) fields: usize,
    pub(crate) name_bytes: usize,
    pub(crate) chunk_extension_bytes: usize,
    pub(crate) trailer_bytes: usize,
    pub(crate) interim_responses: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) body_rate: MinRate,
    pub(crate) body_total_timeout: Duration,
    pub(crate) lenient: Lenient,
    pub(crate) connect: bool,
}

impl Limits {
    /// Creates the default limits.
    pub const fn new() -> Self {
        Self {
            head_bytes: 32 << 10,
            start_line_bytes: 8_000,
            method_bytes: 32,
            fields: 100,
            name_bytes: 256,
            chunk_extension_bytes: 4 << 10,
            trailer_bytes: 8 << 10,
            interim_responses: 8,
            head_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            body_rate: MinRate::new(240, Duration::from_secs(60)),
            body_total_timeout: Duration::from_secs(6 * 3600),
            lenient: Lenient::new(),
            connect: false,
        }
    }

    /// Sets the maximum size of a head with its empty line, in bytes (431). Defaults to 32 KiB: eight times
    /// the cookie size that RFC 6265 requires (4 KiB).
    pub const fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.head_bytes = bytes;
        self
    }

    /// Sets the maximum size of the start line, in bytes (414). Defaults to 8,000, which RFC 9112 section 3
    /// recommends.
    pub const fn max_start_line_bytes(mut self, bytes: usize) -> Self {
        self.start_line_bytes = bytes;
        self
    }

    /// Sets the maximum length of a method, in bytes (501, RFC 9112 section 3). Defaults to 32; registered
    /// methods stay below 20. The limit of the start line applies too.
    pub const fn max_method_bytes(mut self, bytes: usize) -> Self {
        self.method_bytes = bytes;
        self
    }

    /// Sets the maximum number of fields in a head or in trailers (431), not counting a `Host` that is made
    /// from an absolute target. Defaults to 100, as in Apache.
    pub const fn max_fields(mut self, fields: usize) -> Self {
        self.fields = fields;
        self
    }

    /// Sets the maximum length of a field name, in bytes (431). Defaults to 256; registered names stay
    /// below 40.
    pub const fn max_name_bytes(mut self, bytes: usize) -> Self {
        self.name_bytes = bytes;
        self
    }

    /// Sets the maximum size of all chunk extensions of a body, in bytes (400). Defaults to 4 KiB; clients
    /// do not use extensions in practice.
    pub const fn max_chunk_extension_bytes(mut self, bytes: usize) -> Self {
        self.chunk_extension_bytes = bytes;
        self
    }

    /// Sets the maximum size of trailers with the empty line after them, in bytes (431). The empty line
    /// alone is always allowed. Defaults to 8 KiB.
    pub const fn max_trailer_bytes(mut self, bytes: usize) -> Self {
        self.trailer_bytes = bytes;
        self
    }

    /// Sets the maximum number of interim (1xx) responses before the final one, for clients. Defaults to 8.
    pub const fn max_interim_responses(mut self, responses: usize) -> Self {
        self.interim_responses = responses;
        self
    }

    /// Sets the timeout of a head (408 if some of it has arrived, else a close). It runs from the start of
    /// the connection, or from the first byte of a later head, to the end of the head; further bytes do not
    /// extend it. Defaults to 20 s: a head is one or two packets.
    pub const fn head_timeout(mut self, time: Duration) -> Self {
        self.head_timeout = time;
        self
    }

    /// Sets the timeout of a connection that is idle between requests (a close). Defaults to 75 s, as in
    /// nginx.
    pub const fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = time;
        self
    }

    /// Sets the timeout of a body without progress while it is awaited (408). Defaults to 30 s.
    pub const fn body_timeout(mut self, time: Duration) -> Self {
        self.body_timeout = time;
        self
    }

    /// Sets the minimum rate of a request body while it is awaited (408). Defaults to 240 bytes per second,
    /// that of a modem with 2,400 bit/s, with a grace of 60 s. It does not apply to the responses that a
    /// client receives. For the clients of a server, see [`Config::write_rate`](crate::conn::Config::write_rate).
    pub const fn body_rate(mut self, rate: MinRate) -> Self {
        self.body_rate = rate;
        self
    }

    /// Sets the maximum time from the head of a request to the end of its body (408). Defaults to 6 h,
    /// enough for 2.7 GB at 1 Mbit/s. It guarantees that every body ends.
    pub const fn body_total_timeout(mut self, time: Duration) -> Self {
        self.body_total_timeout = time;
        self
    }

    /// Sets the deviations from the grammar that are accepted. Defaults to none.
    pub const fn lenient(mut self, lenient: Lenient) -> Self {
        self.lenient = lenient;
        self
    }

    /// Sets whether servers accept CONNECT (501 otherwise), over HTTP/2, too. Off by default. A service gets such a
    /// request with its target in authority-form, such as `a.example:443`, and without a body; the connection
    /// becomes a tunnel by its response [`connected`](crate::conn::upgrade::connected). Without a service that
    /// allows destinations, such as [`Connect`](crate::upstream::Connect), none should be accepted.
    pub const fn allow_connect(mut self, on: bool) -> Self {
        self.connect = on;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_set_one_by_one_in_a_constant() {
        const SECOND: Duration = Duration::from_secs(1);
        const LIMITS: Limits = Limits::new()
            .max_head_bytes(1)
            .max_start_line_bytes(2)
            .max_method_bytes(3)
            .max_fields(4)
            .max_name_bytes(5)
            .max_chunk_extension_bytes(6)
            .max_trailer_bytes(7)
            .max_interim_responses(8)
            .head_timeout(SECOND)
            .idle_timeout(Duration::from_secs(2))
            .body_timeout(Duration::from_secs(3))
            .body_rate(MinRate::new(9, SECOND))
            .body_total_timeout(Duration::from_secs(4))
            .lenient(Lenient::new().bare_lf(true))
            .allow_connect(true);
        let expected = Limits {
            head_bytes: 1,
            start_line_bytes: 2,
            method_bytes: 3,
            fields: 4,
            name_bytes: 5,
            chunk_extension_bytes: 6,
            trailer_bytes: 7,
            interim_responses: 8,
            head_timeout: SECOND,
            idle_timeout: Duration::from_secs(2),
            body_timeout: Duration::from_secs(3),
            body_rate: MinRate::new(9, SECOND),
            body_total_timeout: Duration::from_secs(4),
            lenient: Lenient { bare_lf: true, ..Lenient::default() },
            connect: true,
        };
        assert_eq!(LIMITS, expected);
        assert_eq!(Limits::default(), Limits::new());
    }
}
