//! Leniencies: named options, off by default.

/// The malformed input that a [`Conn`](super::Conn) accepts, although other readers may read it
/// differently.
///
/// All are off by default. Enable one only for a peer that cannot be fixed, for example an old device
/// behind a gateway. None of them affects the chunks of a body or the values of `Transfer-Encoding`, and a
/// gateway forwards such input in its correct form.
///
/// ```
/// use vestibule::proto::h1::{Lenient, Limits};
///
/// // This upstream folds its Set-Cookie fields.
/// let limits = Limits::new().lenient(Lenient::new().folded_lines(true));
/// # drop(limits);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Lenient {
    pub(crate) bare_lf: bool,
    pub(crate) folded_lines: bool,
    pub(crate) space_before_colon: bool,
    pub(crate) repeated_content_length: bool,
}

impl Lenient {
    /// Creates options without any leniency.
    pub const fn new() -> Self {
        Self {
            bare_lf: false,
            folded_lines: false,
            space_before_colon: false,
            repeated_content_length: false,
        }
    }

    /// Accepts LF without CR at the end of a line of a head or trailer (RFC 9112 section 2.2).
    pub const fn bare_lf(mut self, on: bool) -> Self {
        self.bare_lf = on;
        self
    }

    /// Accepts folded lines in responses: a line that begins with white space continues the value of the
    /// line before, and the line end becomes spaces (RFC 9112 section 5.2). `Host`, `Expect`,
    /// `Connection` and the fields that frame the message must not be folded.
    pub const fn folded_lines(mut self, on: bool) -> Self {
        self.folded_lines = on;
        self
    }

    /// Accepts and removes white space between a field name and its colon in responses (RFC 9112 section
    /// 5.1).
    pub const fn space_before_colon(mut self, on: bool) -> Self {
        self.space_before_colon = on;
        self
    }

    /// Accepts several equal `Content-Length` values, in one field or several, as one (RFC 9110 section
    /// 8.6).
    pub const fn repeated_content_length(mut self, on: bool) -> Self {
        self.repeated_content_length = on;
        self
    }

    /// Returns those that apply to requests, which may not have folded lines or spaces before colons.
    pub(super) const fn of_requests(self) -> Self {
        self.folded_lines(false).space_before_colon(false)
    }

    /// Returns whether a leniency of the line syntax is enabled.
    pub(super) fn affects_lines(self) -> bool {
        self.bare_lf || self.folded_lines || self.space_before_colon
    }
}
