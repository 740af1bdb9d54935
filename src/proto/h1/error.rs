//! Errors of the core: a peer's `Fault`, with the status that answers it, and our own `Misuse`.

use http::StatusCode;

/// What the peer did wrong. The connection reads nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The request line is not `method SP target SP version`.
    #[error("malformed request line")]
    RequestLine,
    /// The status line is not `version SP code SP reason`.
    #[error("malformed status line")]
    StatusLine,
    /// The target holds a byte that must not be there, such as a backslash before the query, or has
    /// no form that suits the method.
    #[error("malformed request target")]
    Target,
    /// A version that is not `HTTP/` digit `.` digit.
    #[error("malformed version")]
    Version,
    /// A well-formed version that is neither 1.1 nor 1.0.
    #[error("HTTP version not supported")]
    VersionNotSupported,
    /// `CONNECT`: this is not a forward proxy.
    #[error("CONNECT is not served")]
    Connect,
    /// A line that ends in LF without CR, or CR without LF.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// A line that begins with white space: obsolete folding (RFC 9112 section 5.2).
    #[error("folded line")]
    Folded,
    /// A field line without a colon, or with a name that is empty or not a token.
    #[error("malformed field name")]
    FieldName,
    /// A name that is that of a framing field but for `_` or `.` in place of `-`. CGI-like programs
    /// behind us would take it for that field.
    #[error("a field name that may be taken for Content-Length or Transfer-Encoding")]
    AmbiguousName,
    /// A control byte in a field's value.
    #[error("malformed field value")]
    FieldValue,
    /// More than two empty lines before a request.
    #[error("empty lines before the request")]
    EmptyLines,
    /// No `Host` in an HTTP/1.1 request.
    #[error("no Host field")]
    HostMissing,
    /// More than one `Host`, one that is not a host, or one that names another host or port than an
    /// absolute target does.
    #[error("Host is repeated, malformed or at odds with the target")]
    Host,
    /// A field that must be single came twice.
    #[error("a field that must be single is repeated")]
    Repeated,
    /// `Content-Length` is not one plain decimal number of at most 63 bits.
    #[error("malformed Content-Length")]
    ContentLength,
    /// `Transfer-Encoding` is no list of plain tokens, has not `chunked` once and at its end, or came
    /// in HTTP/1.0.
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// A transfer coding before the final `chunked`; none other is known.
    #[error("transfer coding not supported")]
    TransferCoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    #[error("both Content-Length and Transfer-Encoding")]
    Ambiguous,
    /// An expectation other than `100-continue`.
    #[error("unknown expectation")]
    Expectation,
    /// A chunk's size line, extension or end is malformed, or its size exceeds 63 bits.
    #[error("malformed chunk")]
    Chunk,
    /// A trailer that must not be one (framing, routing), or is malformed.
    #[error("forbidden or malformed trailer")]
    Trailer,
    /// The method exceeds its bound.
    #[error("method too long")]
    MethodTooLong,
    /// The start line exceeds its bound.
    #[error("start line too long")]
    StartLineTooLong,
    /// The head, a name, the trailers or the number of fields exceeds its bound.
    #[error("header fields too large")]
    FieldsTooLarge,
    /// The connection ended in the middle of a message.
    #[error("connection ended in the middle of a message")]
    Truncated,
    /// The peer took longer than it may.
    #[error("peer too slow")]
    Timeout,
    /// More interim responses than allowed.
    #[error("too many interim responses")]
    Interim,
    /// A response came that nobody asked for.
    #[error("unsolicited response")]
    Unsolicited,
    /// `101` came though no upgrade was asked for.
    #[error("protocol switched without being asked")]
    Switched,
}

impl Fault {
    /// The status that a server answers this fault with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::StartLineTooLong => StatusCode::URI_TOO_LONG,
            Self::FieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::VersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TransferCoding | Self::Connect | Self::MethodTooLong => {
                StatusCode::NOT_IMPLEMENTED
            }
            Self::StatusLine | Self::Interim | Self::Unsolicited | Self::Switched => {
                StatusCode::BAD_GATEWAY
            }
            Self::RequestLine
            | Self::Target
            | Self::Version
            | Self::LineEnd
            | Self::Folded
            | Self::FieldName
            | Self::AmbiguousName
            | Self::FieldValue
            | Self::EmptyLines
            | Self::HostMissing
            | Self::Host
            | Self::Repeated
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::Ambiguous
            | Self::Chunk
            | Self::Trailer
            | Self::Truncated => StatusCode::BAD_REQUEST,
        }
    }
}

/// What the caller did wrong. The call changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The call does not fit the connection's state, such as a second head.
    #[error("call does not fit the state of the connection")]
    State,
    /// A status that is not a final one.
    #[error("not a final status")]
    Status,
    /// The head's `Content-Length` contradicts the body.
    #[error("Content-Length contradicts the body")]
    Length,
    /// More bytes than the head announced.
    #[error("body longer than announced")]
    TooLong,
    /// The end came before all announced bytes.
    #[error("body shorter than announced")]
    TooShort,
    /// The target cannot be put on a request line.
    #[error("target cannot be put on a request line")]
    Target,
}
