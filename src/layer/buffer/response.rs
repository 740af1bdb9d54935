//! `ResponseBuffer`: takes a body as fast as it comes, into memory and then to disk, however slowly
//! the client reads.

mod feed;
mod reader;
mod shared;

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, header::CONTENT_TYPE};
use pin_project::pin_project;
use tokio::task::AbortHandle;
use tower_layer::Layer;
use tower_service::Service;

use self::{feed::Feed, reader::Reader};
use crate::{
    Body, Budget, HttpService, Request, Response,
    body::HttpBody,
    budget::Full,
    conn::RequestInfo,
    error::{BoxError, Error, Kind},
    net::process_budget,
};

/// How much of one response is kept in memory, unless set otherwise: 256 KiB, so that nearly every
/// page fits whole, and a thousand slow clients take no more than 256 MiB.
pub const MAX_MEMORY: usize = 256 << 10;

/// How much of one response goes to disk, unless set otherwise: 1 GiB, as nginx's
/// `proxy_max_temp_file_size`.
pub const MAX_DISK: u64 = 1 << 30;

/// A body in one piece up to this size is handed on as it is: 16 KiB, which leaves with its head.
const SMALL: usize = 16 << 10;

/// Wraps a service in [`ResponseBuffer`]. It stands in front of workers.
#[derive(Debug, Clone)]
pub struct ResponseBufferLayer {
    options: Options,
}

#[derive(Debug, Clone)]
struct Options {
    max_memory: usize,
    max_disk: u64,
    budget: Budget,
}

impl ResponseBufferLayer {
    /// Keeps up to [`MAX_MEMORY`] of each response in memory and [`MAX_DISK`] on disk.
    pub fn new() -> Self {
        Self { options: Options { max_memory: MAX_MEMORY, max_disk: MAX_DISK, budget: process_budget() } }
    }

    /// How much of one response is kept in memory, in bytes. The last piece may reach beyond.
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.options.max_memory = bytes;
        self
    }

    /// How much of one response is kept on disk, in bytes; zero keeps none there. Above both bounds
    /// the service inside waits for the client. The last piece may reach beyond.
    #[must_use]
    pub fn max_disk(mut self, bytes: u64) -> Self {
        self.options.max_disk = bytes;
        self
    }

    /// The budget that it shares with other buffers; [`process_budget`] if not set.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.options.budget = budget;
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
        ResponseBuffer { inner, options: self.options.clone() }
    }
}

/// Frees the service inside before a slow client has read the response.
///
/// Heads are never held back, nor is a byte that the client would read now. What is in a file passes
/// as it is. A body that is complete at once becomes bytes; any other is read by a task, into memory
/// up to a bound, then to a temporary file without a name, and then as fast as the client reads. At
/// its end it is dropped, and with it whatever it holds: a worker, a place, a connection.
///
/// - When the [`Budget`] is tight, what could wait in memory goes to disk. When it is spent, a request
///   is an error of [`Kind::Overloaded`], 503, and the service inside is not asked: it is exchanged
///   for a clone, so that nothing stays reserved.
/// - A disk that is full, or fails, costs no response: its body then waits for the client.
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
    options: Options,
}

impl<S> ResponseBuffer<S> {
    /// Wraps `inner`; keeps up to [`MAX_MEMORY`] and [`MAX_DISK`] of each response.
    pub fn new(inner: S) -> Self {
        ResponseBufferLayer::new().layer(inner)
    }
}

impl<S, B> Service<Request<B>> for ResponseBuffer<S>
where
    S: HttpService<B> + Clone,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let options = self.options.clone();
        if options.budget.is_spent() {
            options.budget.count_refused();
            self.inner = self.inner.clone(); // a clone has nothing reserved
            return ResponseFuture { inner: None, options, request: RequestInfo::default() };
        }
        let info = RequestInfo::from_request(&request);
        ResponseFuture { inner: Some(self.inner.call(request)), options, request: info }
    }
}

/// The future of [`ResponseBuffer`].
#[pin_project]
#[derive(Debug)]
pub struct ResponseFuture<F> {
    /// `None`: the service inside was not asked.
    #[pin]
    inner: Option<F>,
    options: Options,
    request: RequestInfo,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
    E: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Err(Error::new(Kind::Overloaded, Full).into()));
        };
        let response = ready!(inner.poll(cx)).map_err(Into::into)?.map(Body::new);
        Poll::Ready(Ok(if passes(&response) {
            response
        } else {
            response.map(|body| buffer(body, this.options, this.request, cx))
        }))
    }
}

/// Is it here already, or not to be held up?
fn passes(response: &Response) -> bool {
    let body = response.body();
    if body.as_bytes().is_some_and(|b| b.len() <= SMALL) || body.as_file().is_some() {
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
fn buffer(mut body: Body, options: &Options, request: &RequestInfo, cx: &mut Context<'_>) -> Body {
    let mut feed = Feed::new(body.len(), options, request.clone());
    let shared = feed.shared();
    let mut ended = None;
    if let Poll::Ready(end) = feed.poll_drain(&mut body, cx) {
        // The service inside is free before anybody can learn of the end.
        body = Body::empty();
        if !feed.is_writing() {
            return feed.finish(end);
        }
        ended = Some(end);
    }
    let task = spawn(async move {
        let end = match ended {
            Some(end) => end,
            None => poll_fn(|cx| feed.poll_drain(&mut body, cx)).await,
        };
        drop(body);
        poll_fn(|cx| feed.poll_written(cx)).await;
        feed.end(end);
    });
    Body::stretches(Reader::new(shared, Some(task)))
}

/// The task is bound to the outgoing body: it ends with it.
#[allow(clippy::disallowed_methods, reason = "aborted when the outgoing body is dropped")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}

/// How a body ended: whole, with its trailers, or broken off.
type End = Result<Option<HeaderMap>, BoxError>;

#[cfg(test)]
mod tests;
