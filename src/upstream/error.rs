//! Errors of one attempt to send a request: what failed, and whether it can be tried elsewhere.

use std::{
    error::Error as StdError,
    fmt, io,
    sync::{Mutex, PoisonError},
};

use http::Request;

use crate::{
    body::Body,
    conn::Delivery,
    error::{BoxError, Error, Kind},
    net::Address,
};

/// What failed in an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptErrorKind {
    /// No connection to the server could be made, or the service reported an error instead of
    /// becoming ready. The endpoint is ejected for a while.
    Unreachable,
    /// The service did not become ready in time.
    Busy,
    /// An idle connection turned out to be closed. It says nothing about the server.
    StaleConnection,
    /// The connection broke or was closed before a response came.
    ConnectionLost,
    /// The server did not answer in time, or the request's deadline passed.
    Timeout,
    /// The server sent something that is not a valid response.
    Protocol,
    /// The request's body failed, or the request cannot be sent.
    Request,
    /// There is no endpoint, or none that was not tried already.
    NoEndpoint,
    /// The service itself failed: an error that is not an [`AttemptError`].
    Service,
}

/// A failed attempt to have a request answered by one endpoint.
///
/// It is the error of [`Remote`](super::Remote), [`Endpoint`](super::Endpoint) and
/// [`Balance`](super::Balance). It says whether the request [may have been sent](Self::delivery), and
/// carries the request if it can be sent again; [`Retry`](super::Retry) uses both. Its source is the
/// crate's [`Error`], or the error of the endpoint's service.
///
/// A service of your own takes part in retries if it returns such errors:
///
/// ```
/// use vestibule::{Body, Request, upstream::{AttemptError, AttemptErrorKind, Delivery}};
///
/// let request = Request::new(Body::empty());
/// let mut error = AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, "no token left")
///     .with_request(request);
/// assert_eq!(error.to_string(), "endpoint busy, request not sent");
/// assert!(error.take_request().is_some() && error.take_request().is_none());
/// ```
#[derive(Debug)]
pub struct AttemptError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: AttemptErrorKind,
    delivery: Delivery,
    source: BoxError,
    /// An error must be `Sync` and a body need not be. It is only reached through `&mut`.
    request: Mutex<Option<Request<Body>>>,
}

impl AttemptError {
    /// An error without the request, so without a retry.
    pub fn new(kind: AttemptErrorKind, delivery: Delivery, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        Self(Box::new(Inner { kind, delivery, source, request: Mutex::new(None) }))
    }

    /// Gives the request back: no part of a response to it has come, and it is whole, body included.
    #[must_use]
    pub fn with_request(mut self, request: Request<Body>) -> Self {
        self.0.request = Mutex::new(Some(request));
        self
    }

    /// What failed.
    pub fn kind(&self) -> AttemptErrorKind {
        self.0.kind
    }

    /// Whether the request may have been sent.
    pub fn delivery(&self) -> Delivery {
        self.0.delivery
    }

    /// Takes the request, if it was given back.
    pub fn take_request(&mut self) -> Option<Request<Body>> {
        self.slot().take()
    }

    /// The request, if it was given back.
    pub(super) fn request_mut(&mut self) -> Option<&mut Request<Body>> {
        self.slot().as_mut()
    }

    /// The cause alone.
    pub fn into_source(self) -> BoxError {
        self.0.source
    }

    /// The error of a service: as it is if it is one of these.
    pub(super) fn from_service(error: impl Into<BoxError>) -> Self {
        match error.into().downcast::<Self>() {
            Ok(error) => *error,
            Err(error) => Self::new(AttemptErrorKind::Service, Delivery::MaybeSent, error),
        }
    }

    fn slot(&mut self) -> &mut Option<Request<Body>> {
        self.0.request.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.0.kind {
            AttemptErrorKind::Unreachable => "endpoint unreachable",
            AttemptErrorKind::Busy => "endpoint busy",
            AttemptErrorKind::StaleConnection => "idle connection was closed",
            AttemptErrorKind::ConnectionLost => "connection lost",
            AttemptErrorKind::Timeout => "endpoint too slow",
            AttemptErrorKind::Protocol => "endpoint broke the protocol",
            AttemptErrorKind::Request => "request failed",
            AttemptErrorKind::NoEndpoint => "no endpoint left",
            AttemptErrorKind::Service => "service failed",
        };
        let delivery = match self.0.delivery {
            Delivery::NotSent => "request not sent",
            Delivery::MaybeSent => "request may have been sent",
        };
        write!(f, "{what}, {delivery}")
    }
}

impl StdError for AttemptError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

/// A server could not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}")]
pub struct Unreachable {
    address: Address,
    source: io::Error,
}

impl Unreachable {
    /// The error for a failure of `connect`.
    pub(super) fn into_error(address: Address, source: io::Error) -> Error {
        let is_timeout = source.kind() == io::ErrorKind::TimedOut;
        let kind = if is_timeout { Kind::Timeout } else { Kind::BadGateway };
        Error::new(kind, Self { address, source })
    }

    /// The server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// No endpoint can take a request: there is none, or each was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint can take the request")]
pub struct NoEndpoint;

/// An endpoint's service did not become ready in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("service not ready within {0:?}")]
pub struct NotReady(pub std::time::Duration);
