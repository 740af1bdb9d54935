//! The exchange with a FastCGI application.

use std::{sync::Arc, task::Context};

use http::Request;

use crate::{
    body::Body,
    conn::fcgi::{Cause, Connection, Exchange, ExchangeError},
    error::BoxError,
    net::Stream,
    proto::fcgi::{Fault, Limits, Params, Rejection},
    upstream::{
        error::{AttemptError, AttemptErrorKind},
        pooled::{Protocol, ReturnToPool, attempt_error},
    },
};

/// FastCGI 1.0 with one application.
pub(super) struct FastCgi1 {
    pub(super) limits: Arc<Limits>,
}

impl Protocol for FastCgi1 {
    type Connection = Connection<Stream>;
    type Extra = Params;
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
        params: Params,
        checkin: ReturnToPool<Self>,
    ) -> Self::Exchange {
        connection.exchange(request, params, checkin)
    }

    #[cold]
    fn attempt_error(error: ExchangeError, is_reused: bool) -> AttemptError {
        let ExchangeError { cause, delivery, request, has_answer } = error;
        let kind = match cause {
            // A worker that has served its share of requests ends, and closes its idle connection.
            Cause::Io(_) | Cause::Closed if is_reused && !has_answer => {
                AttemptErrorKind::StaleConnection
            }
            Cause::Io(_) | Cause::Closed | Cause::Fault(Fault::Truncated) => {
                AttemptErrorKind::ConnectionLost
            }
            Cause::Fault(Fault::Rejected(Rejection::Overloaded)) => AttemptErrorKind::Busy,
            Cause::Fault(Fault::Timeout) | Cause::Timeout | Cause::Deadline => {
                AttemptErrorKind::Timeout
            }
            Cause::Fault(_) => AttemptErrorKind::Protocol,
            Cause::Misuse(_) | Cause::UnknownLength | Cause::Body(_) => AttemptErrorKind::Request,
        };
        attempt_error(kind, delivery, cause.into_error(), request)
    }

    fn deadline_passed() -> BoxError {
        Cause::Deadline.into_error()
    }
}
