//! HTTP/1.1 with one server.

use std::sync::Arc;

use http::HeaderValue;

use crate::{
    conn::h1::client::{Connection, Core},
    proto::h1::{Fault, Limits},
    upstream::{ServerAddress, connector::ServerStream, error::AttemptErrorKind, pooled::Protocol},
};

/// HTTP/1.1 with one server.
pub(in crate::upstream) struct Http1 {
    /// The `Host` of requests without one.
    pub(super) host: HeaderValue,
    pub(in crate::upstream) limits: Arc<Limits>,
}

impl Http1 {
    pub(super) fn new(server: &ServerAddress, limits: Arc<Limits>) -> Self {
        let host = server.authority().and_then(|host| HeaderValue::from_str(host).ok());
        let host = host.unwrap_or(HeaderValue::from_static("localhost"));
        Self { host, limits }
    }
}

impl Protocol for Http1 {
    type Core = Core;

    fn connection(&self, stream: ServerStream) -> Connection<ServerStream> {
        Connection::new(stream, self.limits.clone())
    }

    fn classify_fault(_: &Fault) -> AttemptErrorKind {
        AttemptErrorKind::Protocol
    }
}
