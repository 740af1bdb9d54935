//! Errors of the core: an application's `Fault` and our own `Misuse`.

use crate::proto::h1;

/// What the application did wrong, or why it refused. The connection reads nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A record of another version than 1.
    #[error("record of an unknown version")]
    Version,
    /// A record of a type that an application does not send, or not now.
    #[error("record of a type that is not expected here")]
    RecordType,
    /// A record of another request than the one that is under way.
    #[error("record of another request")]
    RequestId,
    /// A record whose content is not what its type has.
    #[error("malformed record")]
    Record,
    /// STDOUT or STDERR went on after its end.
    #[error("a stream goes on after its end")]
    StreamEnded,
    /// Something came that nobody asked for.
    #[error("unsolicited record")]
    Unsolicited,
    /// The application does not know a type of record that each must know.
    #[error("application does not know the record type")]
    UnknownType,
    /// The result of `GET_VALUES` exceeds its bound.
    #[error("values too large")]
    ValuesTooLarge,
    /// The application did not take the request.
    #[error("application refused the request: {0}")]
    Rejected(Rejection),
    /// STDOUT ended before the head was complete; most often, nothing was written at all.
    #[error("response without a complete head")]
    NoHead,
    /// A line of the head is malformed, or the head exceeds its bound.
    #[error("malformed head: {0}")]
    Head(#[from] h1::Fault),
    /// `Status` is not a final status of three digits.
    #[error("malformed Status")]
    Status,
    /// None of `Content-Type`, `Location` and `Status`, of which RFC 3875 section 6.3 demands one.
    #[error("none of Content-Type, Location and Status")]
    CgiField,
    /// One of `Content-Type`, `Location`, `Status` and `Content-Length` came twice.
    #[error("a field that must be single is repeated")]
    Repeated,
    /// `Content-Length` is not one plain decimal number.
    #[error("malformed Content-Length")]
    ContentLength,
    /// The application coded the body, which is for the server to do.
    #[error("Transfer-Encoding in a response of an application")]
    TransferEncoding,
    /// More came than `Content-Length` said.
    #[error("body longer than its Content-Length")]
    BodyTooLong,
    /// Less came than `Content-Length` said.
    #[error("body shorter than its Content-Length")]
    BodyTooShort,
    /// The connection ended before the request did.
    #[error("connection ended before the request")]
    Truncated,
    /// The application took longer than it may.
    #[error("application too slow")]
    Timeout,
}

/// Why an application did not take a request: the protocol status of `END_REQUEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// `FCGI_CANT_MPX_CONN`: it takes one request at a time of each connection. We send no more.
    #[error("a connection serves one request at a time")]
    CantMultiplex,
    /// `FCGI_OVERLOADED`: it has no capacity for another request.
    #[error("overloaded")]
    Overloaded,
    /// `FCGI_UNKNOWN_ROLE`: it is no responder.
    #[error("not a responder")]
    UnknownRole,
}

/// What the caller did wrong. The call changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// The call does not fit the connection's state, such as a second request.
    #[error("call does not fit the state of the connection")]
    State,
    /// More bytes than the request announced.
    #[error("body longer than announced")]
    TooLong,
    /// The end came before all announced bytes.
    #[error("body shorter than announced")]
    TooShort,
    /// A name or a value whose length does not fit into 31 bits, or pairs that do not fit into a
    /// record.
    #[error("name or value too long")]
    PairTooLong,
}
