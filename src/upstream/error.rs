//! `AttemptError`: what failed in an attempt to send a request, and whether it can be sent again.

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
    net::{Address, is_exhausted},
};

/// The kind of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptErrorKind {
    /// No connection could be made, or the readiness of the service is an error. The endpoint is ejected.
    Unreachable,
    /// The service did not become ready in time, or this process is out of descriptors or memory for a connection.
    Busy,
    /// An idle connection had been closed, which says nothing about the health of the server.
    StaleConnection,
    /// The connection failed or was closed before a response.
    ConnectionLost,
    /// The server did not answer in time, or the request's deadline passed.
    Timeout,
    /// The server sent an invalid response.
    Protocol,
    /// The request's body failed, or the request cannot be sent.
    Request,
    /// There is no endpoint, or all of them were tried.
    NoEndpoint,
    /// The service returned an error that is not an [`AttemptError`].
    Service,
}

/// An error of one attempt to send a request.
///
/// The error of [`Remote`](super::Remote), [`Endpoint`](super::Endpoint) and [`Balance`](super::Balance). It tells
/// whether the request [may have been sent](Self::delivery), and contains the request if it can be sent again;
/// [`Retry`](super::Retry) uses both. Its source is the crate's [`Error`], or the error of the endpoint's service.
///
/// Requests of a custom service can be retried if it returns such errors:
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
    /// Whether the endpoint had no part in the failure.
    excuses_endpoint: bool,
    /// In a mutex because an error must be `Sync` and a body need not be. It is accessed only through `&mut`.
    request: Mutex<Option<Request<Body>>>,
}

impl AttemptError {
    /// Creates an error without the request, so that it cannot be retried.
    pub fn new(kind: AttemptErrorKind, delivery: Delivery, source: impl Into<BoxError>) -> Self {
        let source = source.into();
        let (excuses_endpoint, request) = (false, Mutex::new(None));
        Self(Box::new(Inner { kind, delivery, source, excuses_endpoint, request }))
    }

    /// Adds the request to the error. No part of its response may have been received, and its body must be complete.
    #[must_use]
    pub fn with_request(mut self, request: Request<Body>) -> Self {
        self.0.request = Mutex::new(Some(request));
        self
    }

    /// Records that the endpoint had no part in the failure, so that it does not count for its health.
    #[must_use]
    pub(super) fn excuse_endpoint(mut self) -> Self {
        self.0.excuses_endpoint = true;
        self
    }

    /// Returns whether the endpoint had no part in the failure.
    pub(super) fn excuses_endpoint(&self) -> bool {
        self.0.excuses_endpoint
    }

    /// Returns the kind of the failure.
    pub fn kind(&self) -> AttemptErrorKind {
        self.0.kind
    }

    /// Returns whether the request may have been sent.
    pub fn delivery(&self) -> Delivery {
        self.0.delivery
    }

    /// Takes the request, if the error contains it.
    pub fn take_request(&mut self) -> Option<Request<Body>> {
        self.slot().take()
    }

    /// Returns the request, if the error contains it.
    pub(super) fn request_mut(&mut self) -> Option<&mut Request<Body>> {
        self.slot().as_mut()
    }

    /// Returns the cause.
    pub fn into_source(self) -> BoxError {
        self.0.source
    }

    /// Converts the error of a service; an `AttemptError` is returned unchanged.
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
            AttemptErrorKind::Timeout => "endpoint did not respond in time",
            AttemptErrorKind::Protocol => "endpoint sent an invalid response",
            AttemptErrorKind::Request => "request failed",
            AttemptErrorKind::NoEndpoint => "no endpoint left",
            AttemptErrorKind::Service => "service failed",
        };
        let delivery = match self.0.delivery {
            Delivery::NotSent => "request not sent",
            Delivery::MaybeSent => "request may have been sent",
            Delivery::Answered => "response begun",
        };
        write!(f, "{what}, {delivery}")
    }
}

impl StdError for AttemptError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0.source)
    }
}

/// No connection to the server could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {address}")]
pub struct Unreachable {
    address: Address,
    source: io::Error,
}

impl Unreachable {
    pub(super) fn new(address: Address, source: io::Error) -> Self {
        Self { address, source }
    }

    /// Creates the error of a failed `connect`.
    pub(super) fn into_error(address: Address, source: io::Error) -> Error {
        let kind = match source.kind() {
            _ if is_exhausted(&source) => Kind::Overloaded,
            io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::BadGateway,
        };
        Error::new(kind, Self::new(address, source))
    }

    /// Creates the error of an attempt that failed to connect. The server has no part in it if this process is out of
    /// descriptors or memory.
    pub(super) fn into_attempt_error(address: Address, source: io::Error) -> AttemptError {
        let kind = if is_exhausted(&source) {
            AttemptErrorKind::Busy
        } else {
            AttemptErrorKind::Unreachable
        };
        AttemptError::new(kind, Delivery::NotSent, Self::into_error(address, source))
    }

    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// No endpoint can take a request: there is none, or all were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no endpoint can take the request: there is none, or all were tried")]
pub struct NoEndpoint;

/// The endpoint is at its [limits](super::EndpointLimits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint is at its limits")]
pub struct NoRoom;

/// An endpoint's service did not become ready within this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("service not ready within {0:?}")]
pub struct NotReady(pub std::time::Duration);
