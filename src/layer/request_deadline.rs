//! `RequestDeadline`: bounds the time from the call to the head of the response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    HttpService, Request,
    error::{BoxError, Error, Kind},
    peer::Deadline,
};

/// No response head came within this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no response within {0:?}")]
pub struct Elapsed(pub Duration);

/// Wraps a service in [`RequestDeadline`].
#[derive(Debug, Clone, Copy)]
pub struct RequestDeadlineLayer {
    after: Duration,
}

impl RequestDeadlineLayer {
    /// Creates a layer that allows `after` for the head of the response.
    pub fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl<S> Layer<S> for RequestDeadlineLayer {
    type Service = RequestDeadline<S>;

    fn layer(&self, inner: S) -> RequestDeadline<S> {
        RequestDeadline { inner, after: self.after }
    }
}

/// Bounds the time from `call` to the head of the response.
///
/// It sets a [`Deadline`] in the request's extensions, which queues, workers and upstream connections below
/// observe, and never extends an earlier one. When the deadline passes, the inner future is dropped and the
/// result is an error of [`Kind::Timeout`] whose source is [`Elapsed`]. (The `TimeoutLayer`s of `tower` and `tower_http` set no deadline for the services
/// below them.)
///
/// It bounds neither the time in `poll_ready` nor the response's body.
#[derive(Debug, Clone)]
pub struct RequestDeadline<S> {
    inner: S,
    after: Duration,
}

impl<S> RequestDeadline<S> {
    /// Wraps `inner`, which has `after` for the head of its response.
    pub fn new(inner: S, after: Duration) -> Self {
        Self { inner, after }
    }
}

impl<S, B> Service<Request<B>> for RequestDeadline<S>
where
    S: HttpService<B>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = Instant::now();
        let earlier = request.extensions().get::<Deadline>().map(|d| Instant::from_std(d.0));
        // A time that overflows the clock is no limit.
        let ours = now.checked_add(self.after);
        let deadline = match (ours, earlier) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if deadline != earlier
            && let Some(at) = deadline
        {
            request.extensions_mut().insert(Deadline(at.into_std()));
        }
        ResponseFuture { inner: self.inner.call(request), called_at: now, deadline, sleep: None }
    }
}

/// The future of [`RequestDeadline`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    called_at: Instant,
    deadline: Option<Instant>,
    /// Created when the inner future is pending, so that an immediate response needs no timer.
    #[pin]
    sleep: Option<Sleep>,
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // The inner future is polled before the timer, so that an available response is never dropped.
        if let Poll::Ready(answer) = this.inner.poll(cx) {
            return Poll::Ready(answer.map_err(Into::into));
        }
        let Some(deadline) = *this.deadline else { return Poll::Pending };
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep_until(deadline)));
        }
        ready!(this.sleep.as_pin_mut().expect("set just above").poll(cx));
        let allowed = deadline.saturating_duration_since(*this.called_at);
        Poll::Ready(Err(Error::new(Kind::Timeout, Elapsed(allowed)).into()))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, future::pending};

    use tower::ServiceExt;

    use super::{super::assert_ready::AssertReady, *};
    use crate::{Body, Response};

    const SEC: Duration = Duration::from_secs(1);

    async fn never(_: Request) -> Result<Response, BoxError> {
        pending().await
    }

    /// Responds with the time until the deadline, in milliseconds.
    async fn tells_deadline(r: Request) -> Result<Response, BoxError> {
        let Deadline(at) = *r.extensions().get::<Deadline>().expect("a deadline");
        let left = Instant::from_std(at) - Instant::now();
        Ok(Response::new(Body::from(left.as_millis().to_string())))
    }

    fn with_deadline(after: Duration) -> Request {
        let mut r = Request::default();
        r.extensions_mut().insert(Deadline((Instant::now() + after).into_std()));
        r
    }

    async fn told(within: Duration, request: Request) -> String {
        let timeout = RequestDeadlineLayer::new(within).layer(AssertReady::new(tells_deadline));
        let response = timeout.oneshot(request).await.unwrap();
        String::from_utf8(response.body().as_bytes().unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn timeout_error_names_the_time_that_passed() {
        let began = Instant::now();
        let error =
            RequestDeadline::new(AssertReady::new(never), SEC).oneshot(Request::default()).await;
        let error = error.unwrap_err();
        let ours = Error::find(&*error).unwrap();
        assert_eq!(ours.kind(), Kind::Timeout);
        assert_eq!(ours.source().unwrap().downcast_ref(), Some(&Elapsed(SEC)));
        assert_eq!(began.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn deadline_is_set_and_only_ever_narrowed() {
        assert_eq!(told(SEC, Request::default()).await, "1000");
        assert_eq!(told(SEC, with_deadline(SEC * 3)).await, "1000");
        assert_eq!(told(SEC * 3, with_deadline(SEC * 2)).await, "2000");
        assert_eq!(told(Duration::MAX, with_deadline(SEC)).await, "1000");
    }

    #[tokio::test(start_paused = true)]
    async fn earlier_deadline_from_outside_ends_the_work_too() {
        let began = Instant::now();
        let timeout = RequestDeadline::new(AssertReady::new(never), SEC * 9);
        let error = timeout.oneshot(with_deadline(SEC * 2)).await.unwrap_err();
        assert!(Error::find(&*error).unwrap().is_timeout());
        assert_eq!(began.elapsed().as_secs(), 2);
    }

    #[test]
    fn immediate_response_needs_no_timer() {
        // There is no runtime here: making a timer would panic.
        let mut timeout = RequestDeadline::new(AssertReady::new(tells_deadline), SEC);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(timeout.poll_ready(&mut cx).is_ready());
        let answer = std::pin::pin!(timeout.call(Request::default())).poll(&mut cx);
        assert!(matches!(answer, Poll::Ready(Ok(_))));
    }
}
