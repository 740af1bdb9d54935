//! `Section`: the structure and bounds of a head, of trailers, or of field lines alone.

use crate::proto::h1::{Lenient, Limits};

/// Empty lines that are skipped before a request: RFC 9112 section 2.2 asks for at least one, and
/// some old clients send two after a body.
const MAX_EMPTY_LINES: u8 = 2;

/// The structure and bounds of a section of lines.
#[derive(Debug, Clone, Copy)]
#[allow(unreachable_pub, reason = "a sealed trait names it")]
pub struct Section {
    /// Whether it begins with a start line.
    pub(in crate::proto::h1) start_line: bool,
    /// Empty lines that may precede the start line.
    pub(in crate::proto::h1) empty_lines: u8,
    /// Maximum bytes of the token with which the start line begins.
    pub(in crate::proto::h1) method_bytes: usize,
    /// Maximum bytes of the whole section.
    pub(in crate::proto::h1) bytes: usize,
    pub(in crate::proto::h1) lenient: Lenient,
}

impl Section {
    pub(in crate::proto::h1) fn of_request(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        Self {
            start_line: true,
            empty_lines: MAX_EMPTY_LINES,
            method_bytes: limits.method_bytes.min(limits.start_line_bytes),
            bytes: limits.head_bytes,
            lenient,
        }
    }

    pub(in crate::proto::h1) fn of_response(limits: &Limits) -> Self {
        let lenient = limits.lenient;
        Self {
            start_line: true,
            empty_lines: 0,
            method_bytes: usize::MAX,
            bytes: limits.head_bytes,
            lenient,
        }
    }

    /// Trailers may not be folded, in requests or responses.
    pub(in crate::proto::h1) fn of_trailers(limits: &Limits) -> Self {
        let lenient = limits.lenient.of_requests();
        // The empty line that ends the trailers is allowed even if no trailers are.
        let bytes = limits.trailer_bytes.max(b"\r\n".len());
        Self { start_line: false, empty_lines: 0, method_bytes: usize::MAX, bytes, lenient }
    }

    /// Field lines alone, which may end in LF without CR.
    pub(in crate::proto::h1) fn of_bare_lf_fields(limits: &Limits) -> Self {
        let lenient = Lenient { bare_lf: true, ..Lenient::default() };
        let bytes = limits.head_bytes;
        Self { start_line: false, empty_lines: 0, method_bytes: usize::MAX, bytes, lenient }
    }
}
