//! What a peer may grow, and for how long it may take: every bound of the HTTP/1.1 core.

use std::time::Duration;

use super::Lenient;
use crate::peer::Rate;

/// Bounds on one connection. The defaults are safe to face the internet with.
///
/// ```
/// use vestibule::proto::h1::Limits;
///
/// let mut limits = Limits::default();
/// limits.head_bytes = 64 << 10; // an application with very large cookies
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a whole head, its empty line included. Default 32 KiB: four times the largest
    /// cookie that browsers keep (RFC 6265 asks for 4 KiB a cookie). Beyond: 431.
    pub head_bytes: usize,
    /// Bytes of the start line. Default 8,000: what RFC 9112 section 3 recommends. Beyond: 414.
    pub start_line_bytes: usize,
    /// Bytes of the method. Default 32; registered methods stay below 20. Beyond: 501.
    pub method_bytes: usize,
    /// Fields in a head, not counting a `Host` that is made of an old request's target. Default 100,
    /// as Apache and nginx have it. Beyond: 431.
    pub fields: usize,
    /// Bytes of a field's name. Default 256; registered names stay below 40. Beyond: 431.
    pub name_bytes: usize,
    /// Bytes of chunk extensions in one body. Default 4 KiB: nobody sends any. Beyond: 400.
    pub chunk_extension_bytes: usize,
    /// Bytes of trailers, the empty line after them included, which alone is always allowed. Default
    /// 8 KiB. Beyond: 431.
    pub trailer_bytes: usize,
    /// Interim (1xx) responses before the final one. Default 8. Beyond: an error.
    pub interim_responses: usize,
    /// From the connection's start, or from the first byte of a later head, to the head's end.
    /// It is a total: bytes that trickle do not extend it. Default 20 s: a head is one packet, or
    /// two on a bad line. Beyond: 408 if something was sent, else a close.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests. Default 75 s, as nginx has it.
    pub idle_timeout: Duration,
    /// How long a body may make no progress while it is waited for. Default 30 s. Beyond: 408.
    pub body_timeout: Duration,
    /// How fast the body of a request must come while it is waited for. Default 240 bytes a second
    /// with a grace of 60 s, a tenth of the slowest modem's: a byte now and then is no progress.
    /// Beyond: 408. A server may answer as slowly as it likes.
    pub body_rate: Rate,
    /// From a request's head to the end of its body, in all. Default 6 h, in which a line of
    /// 1 Mbit/s brings 2.7 GB; it is there so that nothing lasts for ever. Beyond: 408.
    pub body_total_timeout: Duration,
    /// What is let in though it is not strictly right. Default: nothing.
    pub lenient: Lenient,
}

impl Default for Limits {
    fn default() -> Self {
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
            lenient: Lenient::default(),
        }
    }
}
