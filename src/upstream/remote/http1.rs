//! HTTP/1.1 with one server.

use std::sync::Arc;

use http::HeaderValue;

use crate::{
    conn::h1::client::{Connection, Core},
    net::Address,
    proto::h1::{Fault, Limits},
    upstream::{connector::ServerStream, error::AttemptErrorKind, pooled::Protocol},
};

/// HTTP/1.1 with one server.
pub(in crate::upstream) struct Http1 {
    /// The `Host` of requests without one.
    pub(super) host: HeaderValue,
    pub(in crate::upstream) limits: Arc<Limits>,
}

impl Http1 {
    pub(super) fn new(address: &Address, limits: Arc<Limits>) -> Self {
        let host = match address {
            Address::Tcp(host) => HeaderValue::from_str(host).ok(),
            Address::Unix(_) => None,
        };
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
