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
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::{AttemptError, AttemptErrorKind, NotReady};
use crate::{
    HttpService,
    body::Body,
    conn::Delivery,
    error::{Error, Kind},
    peer::Deadline,
};

/// Timeout for the readiness of an endpoint's service: 10 s, the default time that a request may wait in the queue of
/// a worker pool.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which a service that observes the deadline returns its own error, which may contain the request: 10 ms.
const GRACE: Duration = Duration::from_millis(10);

/// An extension of requests whose [`Deadline`] ends the attempt even if the service does not observe it. Without it, no
/// timer is needed for services that do.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnforceDeadline;

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
        timeout: Option<Pin<Box<ReadyTimeout>>>,
    },
    Called {
        #[pin]
        future: F,
        /// `None` unless the deadline is enforced.
        timeout: Option<Pin<Box<Sleep>>>,
    },
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
                StateProj::Called { future, timeout } => {
                    return match future.poll(cx) {
                        Poll::Ready(Ok(response)) => Poll::Ready(Ok(response.map(Body::new))),
                        Poll::Ready(Err(error)) => {
                            Poll::Ready(Err(AttemptError::from_service(error)))
                        }
                        Poll::Pending => poll_timeout(timeout, cx).map(Err),
                    };
                }
            };
            let error = match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    let request = request.take().expect(ENDED);
                    let timeout = timeout_of(&request);
                    let future = service.call(request);
                    state.set(State::Called { future, timeout });
                    continue;
                }
                Poll::Ready(Err(error)) => {
                    AttemptError::new(AttemptErrorKind::Unreachable, Delivery::NotSent, error)
                }
                Poll::Pending => {
                    let timeout = timeout.get_or_insert_with(|| {
                        Box::pin(ReadyTimeout::new(request.as_ref().expect(ENDED)))
                    });
                    let error = ready!(timeout.as_mut().poll(cx));
                    AttemptError::new(AttemptErrorKind::Busy, Delivery::NotSent, error)
                }
            };
            let request = request.take().expect(ENDED);
            return Poll::Ready(Err(error.with_request(request)));
        }
    }
}

/// Returns the timer of a request whose deadline is enforced.
fn timeout_of(request: &Request<Body>) -> Option<Pin<Box<Sleep>>> {
    request.extensions().get::<EnforceDeadline>()?;
    let Deadline(at) = request.extensions().get()?;
    Some(Box::pin(sleep_until(at.checked_add(GRACE)?.into())))
}

/// Waits for the timer of a request whose deadline is enforced.
fn poll_timeout(timeout: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<AttemptError> {
    let Some(sleep) = timeout else { return Poll::Pending };
    ready!(sleep.as_mut().poll(cx));
    let error = Error::new(Kind::Timeout, "no response before the deadline");
    Poll::Ready(AttemptError::new(AttemptErrorKind::Timeout, Delivery::MaybeSent, error))
}

/// The timeout for the readiness of a service: [`READY_TIMEOUT`], or the deadline of the request if that is earlier.
#[pin_project]
struct ReadyTimeout {
    #[pin]
    sleep: Sleep,
    is_deadline: bool,
}

impl ReadyTimeout {
    fn new(request: &Request<Body>) -> Self {
        let until = Instant::now() + READY_TIMEOUT;
        let deadline = request.extensions().get().map(|Deadline(at)| Instant::from(*at));
        match deadline.filter(|deadline| *deadline < until) {
            Some(deadline) => Self { sleep: sleep_until(deadline), is_deadline: true },
            None => Self { sleep: sleep_until(until), is_deadline: false },
        }
    }
}

impl Future for ReadyTimeout {
    type Output = Error;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        let this = self.project();
        ready!(this.sleep.poll(cx));
        Poll::Ready(if *this.is_deadline {
            Error::new(Kind::Timeout, "service not ready before the deadline")
        } else {
            Error::new(Kind::Overloaded, NotReady(READY_TIMEOUT))
        })
    }
}

impl<S, F> fmt::Debug for Attempt<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}
