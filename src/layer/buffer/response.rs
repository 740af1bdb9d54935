//! `ResponseBuffer`: takes a streamed body into memory as fast as it comes, however slowly the
//! client reads.

mod shared;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use pin_project::pin_project;
use tokio::task::AbortHandle;
use tower_layer::Layer;
use tower_service::Service;

use self::shared::{Feed, Reader};
use crate::{Body, Request, Response, error::BoxError};

/// How much of one response is kept in memory, unless set otherwise: 1 MiB, so that nearly every
/// page fits whole, and a thousand slow clients take no more than a gigabyte.
pub const MAX_BUFFERED: usize = 1 << 20;

/// Wraps a service in [`ResponseBuffer`]. It stands in front of workers.
#[derive(Debug, Clone, Copy)]
pub struct ResponseBufferLayer {
    max_buffered: usize,
}

impl ResponseBufferLayer {
    /// Keeps up to [`MAX_BUFFERED`] of each response.
    pub fn new() -> Self {
        Self { max_buffered: MAX_BUFFERED }
    }

    /// How much of one response is kept in memory, in bytes. Above it, the service inside waits
    /// for the client. The last piece may reach beyond.
    #[must_use]
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.max_buffered = bytes;
        self
    }
}

impl Default for ResponseBufferLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ResponseBufferLayer {
    type Service = ResponseBuffer<S>;

    fn layer(&self, inner: S) -> ResponseBuffer<S> {
        ResponseBuffer { inner, max_buffered: self.max_buffered }
    }
}

/// Frees the service inside before a slow client has read the response.
///
/// Heads are never held back, nor is a byte that the client would read now. What is in memory or
/// in a file passes as it is. A streamed body that is complete at once becomes bytes; any other
/// is read by a task, into memory up to a bound, and then as fast as the client reads. At its end
/// it is dropped, and with it whatever it holds: a worker, a place, a connection.
///
/// - A client that leaves ends the task and drops the body.
/// - An error of the body reaches the client after the bytes before it.
/// - A length that is known stays known; trailers are kept.
/// - Event streams (`content-type: text/event-stream`), and responses that ask for it with
///   `x-accel-buffering: no`, pass unbuffered.
///
/// Its futures need a tokio runtime.
#[derive(Debug, Clone)]
pub struct ResponseBuffer<S> {
    inner: S,
    max_buffered: usize,
}

impl<S> ResponseBuffer<S> {
    /// Wraps `inner`; keeps up to [`MAX_BUFFERED`] of each response.
    pub fn new(inner: S) -> Self {
        ResponseBufferLayer::new().layer(inner)
    }
}

impl<S> Service<Request> for ResponseBuffer<S>
where
    S: Service<Request, Response = Response>,
    S::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        ResponseFuture { inner: self.inner.call(request), max_buffered: self.max_buffered }
    }
}

/// The future of [`ResponseBuffer`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    max_buffered: usize,
}

impl<F, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx)).map_err(Into::into)?;
        Poll::Ready(Ok(if passes(&response) {
            response
        } else {
            let max = *this.max_buffered;
            response.map(|body| buffer(body, max, cx))
        }))
    }
}

/// Is it here already, or not to be held up?
fn passes(response: &Response) -> bool {
    let body = response.body();
    if body.as_bytes().is_some() || body.as_file().is_some() {
        return true;
    }
    let headers = response.headers();
    let events = |v: &http::HeaderValue| {
        let name = v.as_bytes().get(..EVENT_STREAM.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM))
    };
    headers.get(CONTENT_TYPE).is_some_and(events)
        || headers
            .get("x-accel-buffering")
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"no"))
}

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Takes what is there now; if that is not all, leaves the rest to a task.
fn buffer(mut body: Body, max: usize, cx: &mut Context<'_>) -> Body {
    let len = body.len();
    let mut feed = Feed::new(len, max);
    if let Poll::Ready(end) = feed.poll_drain(&mut body, cx) {
        // The service inside is free before anybody can learn of the end.
        drop(body);
        return feed.finish(end);
    }
    let reader = feed.reader();
    let task = spawn(async move {
        let end = poll_fn(|cx| feed.poll_drain(&mut body, cx)).await;
        drop(body);
        feed.end(end);
    });
    Body::new(Buffered { reader, task })
}

/// The task is bound to the outgoing body: it ends with it.
#[allow(clippy::disallowed_methods, reason = "aborted when the outgoing body is dropped")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}

/// What the client reads.
struct Buffered {
    reader: Reader,
    task: AbortHandle,
}

impl http_body::Body for Buffered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.reader.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.reader.left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a body ended: whole, with its trailers, or broken off.
type End = Result<Option<HeaderMap>, BoxError>;

#[cfg(test)]
mod tests;
