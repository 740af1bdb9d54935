//! FastCGI with one application.

use std::sync::Arc;

use crate::{
    conn::fcgi::{Connection, Core},
    net::Stream,
    proto::fcgi::{Fault, Limits, Rejection},
    upstream::{error::AttemptErrorKind, pooled::Protocol},
};

/// FastCGI 1.0 with one application.
pub(super) struct FastCgi1 {
    pub(super) limits: Arc<Limits>,
}

impl Protocol for FastCgi1 {
    type Core = Core;

    fn connection(&self, stream: Stream) -> Connection<Stream> {
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
