//! `Attempt`: awaits the readiness of a service, then its response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::{Sleep, sleep};

use super::error::{AttemptError, AttemptErrorKind, NotReady};
use crate::{
    HttpService,
    body::Body,
    conn::Delivery,
    error::{Error, Kind},
};

/// Timeout for the readiness of an endpoint's service: 10 s, the default time that a request may wait in the queue of
/// a worker pool.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Awaits the readiness of a service, and then calls it.
#[pin_project]
pub(super) struct Attempt<S, F>(#[pin] State<S, F>);

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum State<S, F> {
    NotReady {
        service: S,
        request: Option<Request<Body>>,
        /// `None` until the service returned `Pending`.
        timeout: Option<Pin<Box<Sleep>>>,
    },
    Called(#[pin] F),
}

impl<S: HttpService> Attempt<S, S::Future> {
    pub(super) fn new(service: S, request: Request<Body>) -> Self {
        let (request, timeout) = (Some(request), None);
        Self(State::NotReady { service, request, timeout })
    }
}

const ENDED: &str = "not polled again after it has ended";

impl<S> Future for Attempt<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().0;
        loop {
            let (service, request, timeout) = match state.as_mut().project() {
                StateProj::NotReady { service, request, timeout } => (service, request, timeout),
                StateProj::Called(future) => {
                    let result = ready!(future.poll(cx));
                    return Poll::Ready(match result {
                        Ok(response) => Ok(response.map(Body::new)),
                        Err(error) => Err(AttemptError::from_service(error)),
                    });
                }
            };
            let error = match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    let request = request.take().expect(ENDED);
                    let future = service.call(request);
                    state.set(State::Called(future));
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, error)
                }
                Poll::Pending => {
                    let timeout = timeout.get_or_insert_with(|| Box::pin(sleep(READY_TIMEOUT)));
                    ready!(timeout.as_mut().poll(cx));
                    let error = Error::new(Kind::Overloaded, NotReady(READY_TIMEOUT));
                    AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, error)
                }
            };
            let request = request.take().expect(ENDED);
            return Poll::Ready(Err(error.with_request(request)));
        }
    }
}

impl<S, F> fmt::Debug for Attempt<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}
