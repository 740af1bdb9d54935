//! Log lines about a request, with its client, id, method and path.

use std::sync::atomic::{AtomicU32, Ordering};

use http::{Extensions, Method, Request, Uri, request, uri::PathAndQuery};

use crate::{
    error::{BoxError, Chain, Error, Kind},
    peer::{Peer, RequestId},
    semantics::target::OriginalUri,
};

/// Emits a `tracing` event about a request: level, target, [`RequestInfo`], then fields and a message.
///
/// Nothing is formatted unless the event is enabled.
macro_rules! log_request {
    ($level:ident, $target:literal, $request:expr, $($fields:tt)+) => {{
        let request: &$crate::conn::RequestInfo = $request;
        tracing::$level!(
            target: $target,
            client = request.client().map(tracing::field::display),
            request_id = request.id().map(tracing::field::display),
            method = request.method(),
            path = request.path(),
            $($fields)+
        )
    }};
}
pub(crate) use log_request;

/// Emits an event for the error that a request ended with. The level depends on whose fault it is.
pub(crate) fn log_error(request: &RequestInfo, error: &BoxError) {
    let kind = Error::kind_of(&**error);
    let error = Chain(&**error);
    match kind {
        Kind::BadRequest
        | Kind::ClientTimeout
        | Kind::TooLarge
        | Kind::ClientGone
        | Kind::TooManyRequests => {
            log_request!(debug, "vestibule::request", request, %error, "a request was refused");
        }
        Kind::Overloaded | Kind::Timeout | Kind::BadGateway => {
            log_request!(warn, "vestibule::request", request, %error, "a request could not be answered");
        }
        Kind::Internal => {
            log_request!(error, "vestibule::request", request, %error, "a request failed");
        }
    }
}

/// Returns the number of a new connection.
pub(super) fn next_connection_number() -> u32 {
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

/// The facts of a request for log lines. Cloning it allocates only for extension methods.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestInfo {
    client: Option<Peer>,
    id: Option<RequestId>,
    line: Option<RequestLine>,
}

/// The method and the target of a request.
#[derive(Debug, Clone)]
pub(super) struct RequestLine {
    method: Method,
    target: Option<PathAndQuery>,
}

impl RequestLine {
    pub(super) fn new(method: &Method, uri: &Uri) -> Self {
        Self { method: method.clone(), target: uri.path_and_query().cloned() }
    }
}

impl RequestInfo {
    /// Takes the facts from a request whose extensions have the client and the id, as set by the driver.
    pub(crate) fn from_request<B>(request: &Request<B>) -> Self {
        Self::with_extensions(request.method(), request.uri(), request.extensions())
    }

    /// Takes the facts from the head of such a request.
    pub(crate) fn from_parts(head: &request::Parts) -> Self {
        Self::with_extensions(&head.method, &head.uri, &head.extensions)
    }

    fn with_extensions(method: &Method, uri: &Uri, extensions: &Extensions) -> Self {
        // A nested router has shortened the URI.
        let original = extensions.get::<OriginalUri>();
        let uri = original.map_or(uri, |original| &original.0);
        Self {
            client: extensions.get().cloned(),
            id: extensions.get().copied(),
            line: Some(RequestLine::new(method, uri)),
        }
    }

    /// Creates the facts of a request; `None` for the line if its head could not be read.
    pub(super) fn new(client: &Peer, id: RequestId, line: Option<RequestLine>) -> Self {
        Self { client: Some(client.clone()), id: Some(id), line }
    }

    pub(crate) fn client(&self) -> Option<&Peer> {
        self.client.as_ref()
    }

    pub(crate) fn id(&self) -> Option<RequestId> {
        self.id
    }

    pub(crate) fn method(&self) -> Option<&str> {
        self.line.as_ref().map(|line| line.method.as_str())
    }

    /// Returns the path without the query, which may hold secrets.
    pub(crate) fn path(&self) -> Option<&str> {
        self.line.as_ref()?.target.as_ref().map(PathAndQuery::path)
    }
}
