//! The exchange with an HTTP/1.1 server.

use std::{sync::Arc, task::Context};

use http::{HeaderValue, Request};

use crate::{
    body::Body,
    conn::h1::client::{Cause, Connection, Exchange, ExchangeError},
    error::BoxError,
    net::{Address, Stream},
    proto::h1::Limits,
    upstream::{
        error::{AttemptError, AttemptErrorKind},
        pooled::{Protocol, ReturnToPool, attempt_error},
    },
};

/// HTTP/1.1 with one server.
pub(super) struct Http1 {
    /// The `Host` of a request that names none.
    pub(super) host: HeaderValue,
    limits: Arc<Limits>,
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
    type Connection = Connection<Stream>;
    type Extra = ();
    type Exchange = Exchange<Stream, ReturnToPool<Self>>;
    type Error = ExchangeError;

    fn connection(&self, stream: Stream) -> Connection<Stream> {
        Connection::new(stream, self.limits.clone())
    }

    fn poll_usable(connection: &mut Connection<Stream>, cx: &mut Context<'_>) -> bool {
        connection.poll_usable(cx)
    }

    fn exchange(
        connection: Connection<Stream>,
        request: Request<Body>,
        (): (),
        checkin: ReturnToPool<Self>,
    ) -> Self::Exchange {
        connection.exchange(request, checkin)
    }

    #[cold]
    fn attempt_error(error: ExchangeError, is_reused: bool) -> AttemptError {
        let ExchangeError { cause, delivery, request, has_answer } = error;
        let kind = match cause {
            // RFC 9112 section 9.3.1: a server may close an idle connection while a request is on its
            // way. One that has begun to answer was not idle any more.
            Cause::Io(_) | Cause::Closed if is_reused && !has_answer => {
                AttemptErrorKind::StaleConnection
            }
            Cause::Io(_) | Cause::Closed => AttemptErrorKind::ConnectionLost,
            Cause::Timeout | Cause::Deadline => AttemptErrorKind::Timeout,
            Cause::Fault(_) => AttemptErrorKind::Protocol,
            Cause::Misuse(_) | Cause::Body(_) => AttemptErrorKind::Request,
        };
        attempt_error(kind, delivery, cause.into_error(), request)
    }

    fn deadline_passed() -> BoxError {
        Cause::Deadline.into_error()
    }
}
