//! What a peer may grow, and for how long it may take: every bound of the HTTP/1.1 core.

use std::time::Duration;

use super::Lenient;
use crate::peer::Rate;

/// Bounds on one connection. The defaults are safe to face the internet with.
///
/// The faults in brackets are what a server answers a request with that exceeds the bound; as a
/// client it gives up the response.
///
/// ```
/// use std::time::Duration;
/// use vestibule::proto::h1::Limits;
///
/// // An application with very large cookies, for clients that are close by.
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
    pub(crate) body_rate: Rate,
    pub(crate) body_total_timeout: Duration,
    pub(crate) lenient: Lenient,
}

impl Limits {
    /// The defaults.
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
            body_rate: Rate::new(240, Duration::from_secs(60)),
            body_total_timeout: Duration::from_secs(6 * 3600),
            lenient: Lenient::new(),
        }
    }

    /// Bytes of a whole head, its empty line included (431). Default 32 KiB: four times the largest
    /// cookie that browsers keep (RFC 6265 asks for 4 KiB a cookie).
    pub const fn max_head_bytes(mut self, bytes: usize) -> Self {
        self.head_bytes = bytes;
        self
    }

    /// Bytes of the start line (414). Default 8,000: what RFC 9112 section 3 recommends.
    pub const fn max_start_line_bytes(mut self, bytes: usize) -> Self {
        self.start_line_bytes = bytes;
        self
    }

    /// Bytes of a request's method (501, as RFC 9112 section 3 has it). Default 32; registered methods
    /// stay below 20. A method is not longer than a start line may be either.
    pub const fn max_method_bytes(mut self, bytes: usize) -> Self {
        self.method_bytes = bytes;
        self
    }

    /// Fields in a head, or in trailers, not counting a `Host` that is made of an old request's target
    /// (431). Default 100, as Apache has it.
    pub const fn max_fields(mut self, fields: usize) -> Self {
        self.fields = fields;
        self
    }

    /// Bytes of a field's name (431). Default 256; registered names stay below 40.
    pub const fn max_name_bytes(mut self, bytes: usize) -> Self {
        self.name_bytes = bytes;
        self
    }

    /// Bytes of chunk extensions in one body (400). Default 4 KiB: nobody sends any.
    pub const fn max_chunk_extension_bytes(mut self, bytes: usize) -> Self {
        self.chunk_extension_bytes = bytes;
        self
    }

    /// Bytes of trailers, the empty line after them included, which alone is always allowed (431).
    /// Default 8 KiB.
    pub const fn max_trailer_bytes(mut self, bytes: usize) -> Self {
        self.trailer_bytes = bytes;
        self
    }

    /// Interim (1xx) responses before the final one, as a client. Default 8.
    pub const fn max_interim_responses(mut self, responses: usize) -> Self {
        self.interim_responses = responses;
        self
    }

    /// From the connection's start, or from the first byte of a later head, to the head's end (408 if
    /// something was sent, else a close). It is a total: bytes that trickle do not extend it. Default
    /// 20 s: a head is one packet, or two on a bad line.
    pub const fn head_timeout(mut self, time: Duration) -> Self {
        self.head_timeout = time;
        self
    }

    /// How long a connection may be idle between requests (a close). Default 75 s, as nginx has it.
    pub const fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = time;
        self
    }

    /// How long a body may make no progress while it is waited for (408). Default 30 s.
    pub const fn body_timeout(mut self, time: Duration) -> Self {
        self.body_timeout = time;
        self
    }

    /// How fast the body of a request must come while it is waited for (408). Default 240 bytes a second
    /// with a grace of 60 s, a tenth of the slowest modem's: a byte now and then is no progress. A
    /// server may answer as slowly as it likes.
    pub const fn body_rate(mut self, rate: Rate) -> Self {
        self.body_rate = rate;
        self
    }

    /// From a request's head to the end of its body, in all (408). Default 6 h, in which a line of
    /// 1 Mbit/s brings 2.7 GB; it is there so that nothing lasts for ever.
    pub const fn body_total_timeout(mut self, time: Duration) -> Self {
        self.body_total_timeout = time;
        self
    }

    /// What is let in though it is not strictly right. Default: nothing.
    pub const fn lenient(mut self, lenient: Lenient) -> Self {
        self.lenient = lenient;
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
            .body_rate(Rate::new(9, SECOND))
            .body_total_timeout(Duration::from_secs(4))
            .lenient(Lenient::new().bare_lf(true));
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
            body_rate: Rate::new(9, SECOND),
            body_total_timeout: Duration::from_secs(4),
            lenient: Lenient { bare_lf: true, ..Lenient::default() },
        };
        assert_eq!(LIMITS, expected);
        assert_eq!(Limits::default(), Limits::new());
    }
}
