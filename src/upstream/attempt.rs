//! `Attempt`: awaits the readiness of a service, then its response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant as StdInstant},
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
    net::clock,
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
pub(super) struct EnforceDeadline {
    /// The timeout from which the deadline was computed. `None` if there is none, or once the attempt has begun.
    pub(super) attempt: Option<AttemptTimeout>,
}

/// The timeout of one attempt. The wait in the queue of a balancer is not part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptTimeout {
    pub(super) timeout: Duration,
    /// The deadline that was set for the attempt. Another one of the request does not come from this timeout.
    pub(super) until: StdInstant,
    /// The deadline of all attempts together.
    pub(super) total: Option<StdInstant>,
}

impl AttemptTimeout {
    /// Returns the timeout from which the deadline of the request comes.
    pub(super) fn of(request: &Request<Body>) -> Option<Self> {
        let timeout = request.extensions().get::<EnforceDeadline>()?.attempt?;
        let Deadline(at) = *request.extensions().get()?;
        (at == timeout.until).then_some(timeout)
    }

    /// Returns the deadline of an attempt that begins at `now`.
    pub(super) fn deadline(&self, now: StdInstant) -> Option<StdInstant> {
        [now.checked_add(self.timeout), self.total].into_iter().flatten().min()
    }
}

/// Awaits the readiness of a service, and then calls it.
#[pin_project]
pub(super) struct Attempt<S, F> {
    #[pin]
    state: State<S, F>,
    /// A deadline that is no failure of the endpoint.
    excused_deadline: Option<StdInstant>,
}

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
        Self { state: State::NotReady { service, request, timeout }, excused_deadline: None }
    }

    /// Makes a timeout at or after `deadline` no failure of the endpoint.
    pub(super) fn excuse_deadline(self: Pin<&mut Self>, deadline: StdInstant) {
        *self.project().excused_deadline = Some(deadline);
    }
}

const ENDED: &str = "not polled again after it has ended";

impl<S> Future for Attempt<S, S::Future>
where
    S: HttpService,
{
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let excused = *this.excused_deadline;
        this.state.poll_response(cx).map_err(|error| match excused {
            Some(deadline)
                if error.kind() == AttemptErrorKind::Timeout && deadline <= clock::now() =>
            {
                error.excuse_endpoint()
            }
            _ => error,
        })
    }
}

impl<S: HttpService> State<S, S::Future> {
    fn poll_response(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, AttemptError>> {
        loop {
            let (service, request, timeout) = match self.as_mut().project() {
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
                    let mut request = request.take().expect(ENDED);
                    let timeout = begin_timeout(&mut request);
                    let future = service.call(request);
                    self.set(Self::Called { future, timeout });
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

/// Begins the attempt of a request. Returns its timer if its deadline is enforced.
fn begin_timeout(request: &mut Request<Body>) -> Option<Pin<Box<Sleep>>> {
    // The queue of a balancer that is the service is part of this attempt.
    request.extensions_mut().get_mut::<EnforceDeadline>()?.attempt = None;
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
