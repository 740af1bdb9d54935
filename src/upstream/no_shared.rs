//! The replacement of [`shared`](super) without the feature `h2`: no connection is shared.

use std::sync::Arc;

use http::{Request, Response};

use super::{
    error::{AttemptError, AttemptErrorKind},
    remote::Shared,
};
use crate::{body::Body, conn::Delivery};

/// The application protocols that are offered to a server (ALPN).
pub(super) const ALPN: &[&[u8]] = &[b"http/1.1"];

/// No connections.
#[derive(Debug, Default)]
pub(super) struct SharedConnections(());

impl SharedConnections {
    pub(super) fn len(&self) -> usize {
        0
    }

    pub(super) fn waiting(&self) -> usize {
        0
    }
}

/// Sends a request by HTTP/2, which this build does not support.
pub(super) async fn send(
    _: Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, AttemptError> {
    let why = "HTTP/2 needs the feature `h2`";
    Err(AttemptError::new(AttemptErrorKind::Request, Delivery::NotSent, why).with_request(request))
}
