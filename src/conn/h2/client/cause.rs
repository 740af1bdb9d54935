//! The causes of failed exchanges.

use http::Request;

use crate::{
    body::Body,
    conn::Delivery,
    error::{BoxError, Error, Kind},
};

/// The cause of a failed exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The connection failed, or the server closed it.
    #[error("connection to the server failed")]
    Closed(#[source] h2::Error),
    /// The server reset the request, or violated the protocol.
    #[error("server reset the request")]
    Reset(#[source] h2::Error),
    /// The server exceeded a timeout.
    #[error("server too slow")]
    Timeout,
    /// The request's [`Deadline`](crate::peer::Deadline) passed before the server had answered.
    #[error("the deadline passed before the server answered")]
    Deadline,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Unsendable,
    /// The request asks for a WebSocket, and the server's SETTINGS do not allow extended CONNECT (RFC 8441 section 3).
    #[error("server allows no WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL)")]
    NoExtendedConnect,
    /// The request's body failed while it was read.
    #[error("request body failed")]
    Body(#[source] BoxError),
}

impl Cause {
    pub(super) fn new(error: h2::Error) -> Self {
        if error.is_io() || error.is_go_away() { Self::Closed(error) } else { Self::Reset(error) }
    }

    /// Returns whether the server reported that it did not process the request (RFC 9113 sections 6.8 and 8.7).
    pub(super) fn is_unprocessed(&self) -> bool {
        match self {
            Self::Closed(error) => error.is_go_away() && error.is_remote(),
            Self::Reset(error) => {
                error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
            }
            Self::Timeout
            | Self::Deadline
            | Self::Unsendable
            | Self::NoExtendedConnect
            | Self::Body(_) => false,
        }
    }

    /// Converts to the crate's error, with its kind. An error of the request's body is returned unchanged, since it
    /// belongs to the client's connection.
    pub(crate) fn into_error(self) -> BoxError {
        let kind = match self {
            Self::Body(error) => return error,
            Self::Timeout | Self::Deadline => Kind::Timeout,
            Self::Unsendable => Kind::Internal,
            Self::Closed(_) | Self::Reset(_) | Self::NoExtendedConnect => Kind::BadGateway,
        };
        Error::new(kind, self).into()
    }
}

/// A failed exchange.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExchangeError {
    /// The cause.
    pub cause: Cause,
    /// Whether the server may have processed the request.
    pub delivery: Delivery,
    /// The original request, if its body can be [replayed](Body::replay) or was not yet read.
    pub request: Option<Box<Request<Body>>>,
    /// Whether the connection waited for a part of the request's body, so that the server had nothing to do.
    pub awaits_body: bool,
    /// Whether the server's SETTINGS had been received. Without them, the server has never served the connection.
    pub had_settings: bool,
}
