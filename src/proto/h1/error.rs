//! Errors of the core: a peer's [`Fault`], with the status of the answer, and the caller's [`Misuse`].

use http::StatusCode;

/// A violation of the protocol or of a limit by the peer. The connection reads nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The request line is not `method SP target SP version`.
    #[error("malformed request line")]
    RequestLine,
    /// The status line is not `version SP code SP reason`.
    #[error("malformed status line")]
    StatusLine,
    /// The target contains an invalid byte, for example a backslash before the query, or has a form that
    /// its method does not allow.
    #[error("malformed request target")]
    Target,
    /// The version is not `HTTP/` digit `.` digit.
    #[error("malformed version")]
    Version,
    /// A well-formed version that is neither 1.1 nor 1.0.
    #[error("HTTP version not supported")]
    VersionNotSupported,
    /// `CONNECT`, which the [limits](super::Limits::allow_connect) do not allow.
    #[error("CONNECT is not served")]
    Connect,
    /// `CONNECT` with a `Content-Length` or `Transfer-Encoding` (RFC 9110 section 9.3.6).
    #[error("CONNECT with a body")]
    ConnectBody,
    /// A line that ends in LF without CR, or CR without LF.
    #[error("line does not end in CRLF")]
    LineEnd,
    /// A line that begins with white space: obsolete folding (RFC 9112 section 5.2).
    #[error("folded line")]
    Folded,
    /// A field line without a colon, or with a name that is empty or not a token.
    #[error("malformed field name")]
    FieldName,
    /// The name of a framing field with `_` or `.` instead of `-`. CGI-like applications would read it as
    /// that field.
    #[error("field name that applications may read as Content-Length or Transfer-Encoding")]
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
    /// `Host` is repeated, is not a host, or names another host or port than an absolute target does.
    #[error("Host is repeated, malformed or contradicts the target")]
    Host,
    /// A singleton field is repeated.
    #[error("singleton field is repeated")]
    Repeated,
    /// `Content-Length` is not one plain decimal number of at most 63 bits.
    #[error("malformed Content-Length")]
    ContentLength,
    /// `Transfer-Encoding` is not a list of plain tokens, does not have `chunked` exactly once and last, or
    /// is in an HTTP/1.0 message.
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// A transfer coding before the final `chunked`; no other coding is supported.
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
    /// A trailer is malformed, or a field that must not be one (framing, routing).
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
    /// The peer exceeded a timeout or stayed below the minimum rate.
    #[error("peer too slow")]
    Timeout,
    /// More interim responses than allowed.
    #[error("too many interim responses")]
    Interim,
    /// A response without a request.
    #[error("unsolicited response")]
    Unsolicited,
    /// A `101` response, although no upgrade was requested.
    #[error("101 response without an upgrade request")]
    Switched,
}

impl Fault {
    /// Returns the status with which a server answers this fault.
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
            | Self::ConnectBody
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

/// A wrong call. It wrote nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The state of the connection does not allow the call, for example a second head.
    #[error("state of the connection does not allow the call")]
    State,
    /// The status is not a final one.
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
    /// The target cannot be written on a request line.
    #[error("target cannot be written on a request line")]
    Target,
}
