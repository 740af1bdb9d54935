//! `Delivery`: whether a request that failed may have reached its server.

/// Whether a request that failed may have reached its server.
///
/// It decides whether the request can be sent again: one that was not sent, always; one that may
/// have been, only if its method is idempotent (RFC 9110 section 9.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Not a byte of it was written: the server has not seen it.
    NotSent,
    /// At least a byte of it was written: the server may have acted on it.
    MaybeSent,
}
