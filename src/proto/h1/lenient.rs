//! What may be let in on request: each leniency is a switch with a name, and off.

/// What a [`Conn`](super::Conn) lets in though another reader may take it differently.
///
/// All are off by default, and only for a peer that cannot be mended: an old device behind a
/// gateway, say. None of them touches chunked bodies or what `Transfer-Encoding` may say, and
/// whatever was let in is written on as it should have been.
///
/// ```
/// use vestibule::proto::h1::{Lenient, Limits};
///
/// // This upstream folds its Set-Cookie.
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
    /// No leniency.
    pub const fn new() -> Self {
        Self {
            bare_lf: false,
            folded_lines: false,
            space_before_colon: false,
            repeated_content_length: false,
        }
    }

    /// LF without CR ends a line of a head or trailer (RFC 9112 section 2.2).
    pub const fn bare_lf(mut self, on: bool) -> Self {
        self.bare_lf = on;
        self
    }

    /// In responses, a line that begins with white space goes on with the value of the line before;
    /// the line's end becomes spaces (RFC 9112 section 5.2). Not for fields that frame the message.
    pub const fn folded_lines(mut self, on: bool) -> Self {
        self.folded_lines = on;
        self
    }

    /// In responses, white space between a field's name and its colon is dropped (RFC 9112
    /// section 5.1).
    pub const fn space_before_colon(mut self, on: bool) -> Self {
        self.space_before_colon = on;
        self
    }

    /// Several `Content-Length`, or a list in one, that are all equal count as one (RFC 9110
    /// section 8.6).
    pub const fn repeated_content_length(mut self, on: bool) -> Self {
        self.repeated_content_length = on;
        self
    }

    /// Those that a server may grant: a request is never folded nor spaced.
    pub(super) const fn of_requests(self) -> Self {
        self.folded_lines(false).space_before_colon(false)
    }

    /// Is there one that is about lines?
    pub(super) fn affects_lines(self) -> bool {
        self.bare_lf || self.folded_lines || self.space_before_colon
    }
}
