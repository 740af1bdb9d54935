//! `Disconnect`: what becomes of work whose client has left.

mod detached;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Method;
use http_body::{Body as _, SizeHint};
use tower_layer::Layer;
use tower_service::Service;

use self::detached::{Detached, Work};
use crate::{
    Body, HttpService, Request, Response,
    body::{PollStretch, Stretches},
    error::BoxError,
    net::Drain,
};

/// Work that goes on at a time though its client has left, unless set otherwise: 1,024. What clients
/// can start and leave must have a bound.
pub const MAX_DETACHED: usize = 1024;

/// How long it may go on, unless set otherwise: 10 minutes, twice what a server gives a service whose
/// client waits.
pub const TIME_LIMIT: Duration = Duration::from_secs(600);

/// What becomes of work whose client has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is dropped at once, as without this layer. It does not change the policy of a layer outside
    /// of this one.
    Cancel,
    /// It goes on to the head of its response, which is then dropped with its body: for what
    /// should not stop halfway, such as an order that is being placed.
    Detach,
    /// As [`Detach`](Self::Detach), and the body of the response is read to its end, also when the
    /// client leaves in the middle of it: for what is behind and should be complete, such as a
    /// cache. Not for streams of events, which never end. Answers to HEAD have no body to be read.
    Finish,
}

/// Wraps a service in [`Disconnect`]: one policy for a route, or for everything below.
#[derive(Debug, Clone)]
pub struct DisconnectLayer {
    policy: Policy,
    detached: Arc<Detached>,
}

/// Options of a [`DisconnectLayer`].
#[derive(Debug)]
#[must_use = "a layer is made by build()"]
pub struct DisconnectBuilder {
    policy: Policy,
    max_detached: usize,
    time_limit: Duration,
}

impl DisconnectBuilder {
    /// How much work may go on at a time without its client; above it, work is cancelled. Default
    /// [`MAX_DETACHED`].
    pub fn max_detached(mut self, n: usize) -> Self {
        self.max_detached = n;
        self
    }

    /// How long work may go on without its client. Default [`TIME_LIMIT`].
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.time_limit = time;
        self
    }

    /// The finished layer.
    pub fn build(self) -> DisconnectLayer {
        let detached = Arc::new(Detached::new(self.max_detached, self.time_limit));
        DisconnectLayer { policy: self.policy, detached }
    }
}

impl DisconnectLayer {
    /// A layer with [`Policy::Cancel`].
    pub fn cancel() -> Self {
        Self::builder(Policy::Cancel).build()
    }

    /// A layer with [`Policy::Detach`].
    pub fn detach() -> Self {
        Self::builder(Policy::Detach).build()
    }

    /// A layer with [`Policy::Finish`].
    pub fn finish() -> Self {
        Self::builder(Policy::Finish).build()
    }

    /// A layer with options.
    pub fn builder(policy: Policy) -> DisconnectBuilder {
        DisconnectBuilder { policy, max_detached: MAX_DETACHED, time_limit: TIME_LIMIT }
    }

    /// The register of what goes on without its client: how much it is, waiting for its end, and
    /// cutting it. For a shutdown, give it to
    /// [`Serve::drain_also`](crate::serve::Serve::drain_also).
    pub fn detached(&self) -> Drain {
        self.detached.drain.clone()
    }
}

impl<S> Layer<S> for DisconnectLayer {
    type Service = Disconnect<S>;

    fn layer(&self, inner: S) -> Disconnect<S> {
        Disconnect { inner, policy: self.policy, detached: self.detached.clone() }
    }
}

/// Decides what becomes of a call whose future is dropped before its end, as the server's drivers
/// do when the client has left.
///
/// There is no task as long as the client is there. Work that goes on without it is moved into one,
/// with all that it holds: a place in a limit or a queue is given back when the work truly ends, so
/// clients that come and leave start no more work than clients that stay.
///
/// Put the [request buffer](super::RequestBuffer) *outside* of it: then only requests that came
/// whole are worked on without their client. Inside of it, the body of a client that left ends in an
/// error, and the work that goes on is that of refusing it.
///
/// What goes on is bounded in number and in time, ends with its runtime, and its failure is logged.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::{Body, BoxError, Request, Response, layer};
///
/// let orders = ServiceBuilder::new()
///     .layer(layer::RequestBufferLayer::new()) // only whole requests go on
///     .layer(layer::DisconnectLayer::detach()) // and they do to their end
///     .layer(layer::ConcurrencyLimitLayer::new(10)) // in which they still count
///     .service_fn(|_: Request| async { Ok::<_, BoxError>(Response::new(Body::from("placed"))) });
/// # drop(orders);
/// ```
#[derive(Debug, Clone)]
pub struct Disconnect<S> {
    inner: S,
    policy: Policy,
    detached: Arc<Detached>,
}

impl<S, B> Service<Request<B>> for Disconnect<S>
where
    S: HttpService<B>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        // The body of an answer to HEAD is dropped by whoever answers: nobody has left.
        let policy = match self.policy {
            Policy::Finish if request.method() == Method::HEAD => Policy::Detach,
            policy => policy,
        };
        let answer = self.inner.call(request);
        let work: Work = Box::pin(async {
            answer.await.map(|response| response.map(Body::new)).map_err(Into::into)
        });
        ResponseFuture { work: Some(work), policy, detached: self.detached.clone() }
    }
}

/// The future of [`Disconnect`].
pub struct ResponseFuture {
    /// `None` once it has ended, or panicked.
    work: Option<Work>,
    policy: Policy,
    detached: Arc<Detached>,
}

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out: after a panic there is nothing that could go on.
        let mut work = self.work.take().expect("not polled after its end");
        let Poll::Ready(answer) = work.as_mut().poll(cx) else {
            self.work = Some(work);
            return Poll::Pending;
        };
        drop(work);
        let response = answer?;
        Poll::Ready(Ok(if self.policy == Policy::Finish && !response.body().is_complete() {
            let detached = self.detached.clone();
            response.map(|body| Body::stretches(Finishing { body: Some(body), detached }))
        } else {
            response
        }))
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        let finish = match self.policy {
            Policy::Cancel => return,
            Policy::Detach => false,
            Policy::Finish => true,
        };
        if let Some(work) = self.work.take() {
            self.detached.go_on(async move {
                let body = work.await?.into_body();
                if finish { detached::read(body).await } else { Ok(()) }
            });
        }
    }
}

/// A body that is read to its end, by whomever.
struct Finishing {
    /// `None` once it has ended, or panicked.
    body: Option<Body>,
    detached: Arc<Detached>,
}

impl Stretches for Finishing {
    fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch {
        // Taken out, as above.
        let Some(mut body) = self.body.take() else { return Poll::Ready(None) };
        let stretch = body.poll_stretch(cx);
        if matches!(stretch, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.body = Some(body);
        }
        stretch
    }

    fn is_end(&self) -> bool {
        self.body.as_ref().is_none_or(|b| b.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), |b| b.size_hint())
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|b| !b.is_end_stream()) {
            self.detached.go_on(detached::read(body));
        }
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
