//! `Fault` and `Misuse`: errors of the application and of the caller.

use crate::proto::h1;

/// An error of the application, or its refusal. The connection reads nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The version of a record is not 1.
    #[error("record of a FastCGI version other than 1")]
    Version,
    /// The type of a record is unknown, or not allowed in this state.
    #[error("record of an unexpected type")]
    RecordType,
    /// The request id of a record is not that of the current request.
    #[error("record with the id of another request")]
    RequestId,
    /// The content of a record is malformed.
    #[error("malformed record")]
    Record,
    /// A record of STDOUT or STDERR follows the end of that stream.
    #[error("record of STDOUT or STDERR after the end of the stream")]
    StreamEnded,
    /// Bytes arrived on an idle connection.
    #[error("record without a request")]
    Unsolicited,
    /// The application answered that it does not know the type of a record.
    #[error("the application does not know a record type")]
    UnknownType,
    /// The result of `GET_VALUES` exceeds its bound.
    #[error("result of GET_VALUES too large (max_values_bytes)")]
    ValuesTooLarge,
    /// The application refused the request.
    #[error("the application refused the request: {0}")]
    Rejected(Rejection),
    /// STDOUT ended before the head was complete. Usually nothing was written at all.
    #[error("response without a complete head")]
    NoHead,
    /// A line of the head is malformed, or the head exceeds its bound.
    #[error("malformed response head: {0}")]
    Head(#[from] h1::Fault),
    /// `Status` is not a final status of three digits.
    #[error("malformed Status")]
    Status,
    /// The head has none of `Content-Type`, `Location` and `Status`; RFC 3875 section 6.3 requires one.
    #[error("response head with none of Content-Type, Location and Status")]
    CgiField,
    /// `Content-Type`, `Location`, `Status` or `Content-Length` is in the head more than once.
    #[error("repeated Content-Type, Location, Status or Content-Length")]
    Repeated,
    /// `Content-Length` is not one plain decimal number.
    #[error("malformed Content-Length")]
    ContentLength,
    /// The head has a `Transfer-Encoding`, which only a server may apply.
    #[error("Transfer-Encoding in the response of an application")]
    TransferEncoding,
    /// The body is longer than its `Content-Length`.
    #[error("body longer than its Content-Length")]
    BodyTooLong,
    /// The body is shorter than its `Content-Length`.
    #[error("body shorter than its Content-Length")]
    BodyTooShort,
    /// The connection ended before the response.
    #[error("connection closed before the end of the response")]
    Truncated,
    /// The application made no progress before the [deadline](super::Conn::deadline).
    #[error("the application made no progress in time")]
    Timeout,
}

/// The reason for which an application refuses a request: the protocol status of `END_REQUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// `FCGI_CANT_MPX_CONN`: a connection carries only one request at a time, which `Conn` never exceeds.
    #[error("it does not multiplex requests")]
    CantMultiplex,
    /// `FCGI_OVERLOADED`: it has no capacity for another request.
    #[error("it is overloaded")]
    Overloaded,
    /// `FCGI_UNKNOWN_ROLE`: it does not support the responder role.
    #[error("it does not support the responder role")]
    UnknownRole,
}

/// An error of the caller. The call has changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The call is not allowed in the connection's state, for example a second request.
    #[error("call not allowed in the state of the connection")]
    State,
    /// The body exceeds the length that was announced.
    #[error("body longer than announced")]
    TooLong,
    /// The body ends before the length that was announced.
    #[error("body shorter than announced")]
    TooShort,
    /// The length of a name or a value does not fit into 31 bits, or pairs do not fit into a record.
    #[error("name or value too long")]
    PairTooLong,
    /// The length of the request's body is not known, and CGI has no body without `CONTENT_LENGTH`.
    #[error("length of the body is unknown: put a RequestBufferLayer before the application")]
    UnknownLength,
}
