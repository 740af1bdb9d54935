//! FastCGI 1.0 with one application.

use std::sync::Arc;

use crate::{
    conn::fcgi::{Connection, Core},
    proto::fcgi::{Fault, Limits, Rejection},
    upstream::{connector::ServerStream, error::AttemptErrorKind, pooled::Protocol},
};

/// FastCGI 1.0 with one application.
pub(super) struct FastCgi1 {
    pub(super) limits: Arc<Limits>,
}

impl Protocol for FastCgi1 {
    type Core = Core;

    /// A script goes on after `fastcgi_finish_request`. On a Unix socket the last record of its request, which is
    /// empty, is read only when the script has ended. TCP does not show it.
    const WORKS_AFTER_RESPONSE: bool = true;

    fn connection(&self, stream: ServerStream) -> Connection<ServerStream> {
        Connection::new(stream, self.limits.clone())
    }

    fn classify_fault(fault: &Fault) -> AttemptErrorKind {
        match fault {
            Fault::Truncated => AttemptErrorKind::ConnectionLost,
            Fault::Rejected(Rejection::Overloaded) => AttemptErrorKind::Busy,
            Fault::Timeout => AttemptErrorKind::Timeout,
            _ => AttemptErrorKind::Protocol,
        }
    }
}
