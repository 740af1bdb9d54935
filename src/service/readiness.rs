//! A wait for a service's readiness that ends with the deadline of the request that waits.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::Extensions;
use tokio::time::{Sleep, sleep_until};
use tower_service::Service;

use crate::{
    error::{BoxError, Error, Kind},
    peer::Deadline,
};

/// A request's wait for the readiness of the service that it is for.
pub(crate) struct Readiness {
    deadline: Option<Instant>,
    /// Set once the service was not ready.
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Readiness {
    /// Creates the wait of a request with these extensions.
    pub(crate) fn new(extensions: &Extensions) -> Self {
        let deadline = extensions.get::<Deadline>().map(|deadline| deadline.0);
        Self { deadline, expiry: None }
    }

    /// Polls the service until it is ready. Fails with [`Kind::Timeout`] at the request's [`Deadline`], if it has one.
    pub(crate) fn poll<S, R>(
        &mut self,
        service: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BoxError>>
    where
        S: Service<R, Error: Into<BoxError>>,
    {
        if let Poll::Ready(result) = service.poll_ready(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let Some(at) = self.deadline else { return Poll::Pending };
        let expiry = self.expiry.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        expiry.as_mut().poll(cx).map(|()| Err(Error::new(Kind::Timeout, NotReady).into()))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the service was not ready before the request's deadline")]
struct NotReady;
