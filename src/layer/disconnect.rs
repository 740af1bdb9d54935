//! `Disconnect`: whether a request is cancelled or completed when its client disconnects.

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
    body::{PollSegment, Segments},
    conn::{RequestInfo, upgrade::begins_tunnel},
    error::BoxError,
    net::Drain,
};

/// The default limit on detached requests, 1,024, since clients could start and abandon any number.
pub const MAX_DETACHED: usize = 1024;

/// The default time that a detached request may take, 10 minutes: twice the `answer_timeout` of a server.
pub const TIME_LIMIT: Duration = Duration::from_secs(600);

/// What happens to a request whose client disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The request's future is dropped at once, as without this layer. An outer `Disconnect` still applies
    /// its own policy to its own future.
    Cancel,
    /// The request runs until the head of its response, which is then dropped with its body. For requests
    /// that should not stop halfway, for example placing an order.
    Detach,
    /// As [`Detach`](Self::Detach), and the response's body is read to its end, also when the client
    /// disconnects while it is sent. For an inner service that needs the complete body, for example a
    /// cache. Do not use it for event streams, which never end. Responses to HEAD, and those that begin a
    /// tunnel, have no body to read.
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
    /// Sets how many requests may be detached at a time; further ones are cancelled. Defaults to
    /// [`MAX_DETACHED`].
    pub fn max_detached(mut self, n: usize) -> Self {
        self.max_detached = n;
        self
    }

    /// Sets how long a detached request may take. Defaults to [`TIME_LIMIT`].
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.time_limit = time;
        self
    }

    /// Creates the layer.
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

    /// Returns a handle to the detached requests, which counts them, waits for their end and aborts
    /// them. To wait for them at shutdown, pass it to
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

/// Applies a [`Policy`] to calls whose future is dropped before its end. The server's drivers drop it
/// when the client disconnects: at once if it resets the connection, and after
/// [`Http1Config::half_close`](crate::conn::Http1Config::half_close) if it only ends it.
///
/// A request is moved into a task of its own only when its client disconnects, with everything that it
/// holds. The permit of a limit or a queue is released when the request ends, so clients that disconnect
/// start no more work than clients that wait.
///
/// Put the [request buffer](super::RequestBuffer) *outside* this layer, so that only complete requests are
/// detached. With the buffer inside, the body of a disconnected client ends in an error, and the detached
/// request fails.
///
/// Detached requests are bounded in number and time and end with their runtime. Their failures are
/// logged.
///
/// ```
/// use tower::ServiceBuilder;
/// use vestibule::{Body, BoxError, Request, Response, layer};
///
/// let orders = ServiceBuilder::new()
///     .layer(layer::RequestBufferLayer::new()) // only complete requests are detached
///     .layer(layer::DisconnectLayer::detach())
///     .layer(layer::ConcurrencyLimitLayer::new(10)) // counts detached requests too
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
        // Servers drop the body of a response to HEAD: that is not a disconnect.
        let policy = match self.policy {
            Policy::Finish if request.method() == Method::HEAD => Policy::Detach,
            policy => policy,
        };
        let info = RequestInfo::from_request(&request);
        let answer = self.inner.call(request);
        let work: Work = Box::pin(async {
            answer.await.map(|response| response.map(Body::new)).map_err(Into::into)
        });
        ResponseFuture { work: Some(work), request: info, policy, detached: self.detached.clone() }
    }
}

/// The future of [`Disconnect`].
pub struct ResponseFuture {
    /// `None` after its end or a panic.
    work: Option<Work>,
    request: RequestInfo,
    policy: Policy,
    detached: Arc<Detached>,
}

impl Future for ResponseFuture {
    type Output = Result<Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out, so that a panic does not detach it.
        let mut work = self.work.take().expect("not polled after its end");
        let Poll::Ready(answer) = work.as_mut().poll(cx) else {
            self.work = Some(work);
            return Poll::Pending;
        };
        drop(work);
        let response = answer?;
        let has_body = !response.body().is_complete() && !begins_tunnel(&response);
        Poll::Ready(Ok(if self.policy == Policy::Finish && has_body {
            let (request, detached) = (self.request.clone(), self.detached.clone());
            response.map(|body| Body::segmented(Finishing { body: Some(body), request, detached }))
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
            self.detached.spawn(std::mem::take(&mut self.request), async move {
                let response = work.await?;
                if finish && !begins_tunnel(&response) {
                    return detached::read_to_end(response.into_body()).await;
                }
                Ok(())
            });
        }
    }
}

/// A body that a task reads to its end if it is dropped before.
struct Finishing {
    /// `None` after its end or a panic.
    body: Option<Body>,
    request: RequestInfo,
    detached: Arc<Detached>,
}

impl Segments for Finishing {
    fn poll_segment(&mut self, cx: &mut Context<'_>) -> PollSegment {
        // Taken out, as above.
        let Some(mut body) = self.body.take() else { return Poll::Ready(None) };
        let segment = body.poll_segment(cx);
        if matches!(segment, Poll::Pending | Poll::Ready(Some(Ok(_)))) {
            self.body = Some(body);
        }
        segment
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(body) = &mut self.body {
            body.drive(cx);
        }
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
            self.detached.spawn(std::mem::take(&mut self.request), detached::read_to_end(body));
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
