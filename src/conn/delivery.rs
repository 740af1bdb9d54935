//! `Delivery`: the progress of a failed request.

/// The progress of a failed request.
///
/// A request that was not sent can always be sent again; one that may have been sent, only if its method is
/// idempotent (RFC 9110 section 9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// No byte of it was written, or the server has shown that it did not begin the request.
    NotSent,
    /// At least one byte of it was written: the server may have acted on it, even if it has acknowledged no byte.
    MaybeSent,
    /// At least one byte of a response has arrived: the server has acted on it.
    Answered,
}
