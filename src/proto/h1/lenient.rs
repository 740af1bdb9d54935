//! What may be let in on request: each leniency is a switch with a name, and off.

/// What a [`Conn`](super::Conn) lets in though another reader may take it differently.
///
/// All are off by default, and only for a peer that cannot be mended: an old device behind a
/// gateway, say. None of them touches chunked bodies or what `Transfer-Encoding` may say, and
/// whatever was let in is written on as it should have been.
///
/// ```
/// use vestibule::proto::h1::Limits;
///
/// let mut limits = Limits::default();
/// limits.lenient.folded_lines = true; // this upstream folds its Set-Cookie
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lenient {
    /// LF without CR ends a line of a head or trailer (RFC 9112 section 2.2).
    pub bare_lf: bool,
    /// In responses, a line that begins with white space goes on with the value of the line before;
    /// the line's end becomes spaces (RFC 9112 section 5.2). Not for fields that frame the message.
    pub folded_lines: bool,
    /// In responses, white space between a field's name and its colon is dropped (RFC 9112
    /// section 5.1).
    pub space_before_colon: bool,
    /// Several `Content-Length`, or a list in one, that are all equal count as one (RFC 9110
    /// section 8.6).
    pub repeated_content_length: bool,
}

impl Lenient {
    /// Those that a server may grant: a request is never folded nor spaced.
    pub(super) fn of_requests(self) -> Self {
        Self { folded_lines: false, space_before_colon: false, ..self }
    }

    /// Is there one that is about lines?
    pub(super) fn lines(self) -> bool {
        self.bare_lf || self.folded_lines || self.space_before_colon
    }
}
