//! `ResponseBuffer`: reads a response body as fast as it is produced, into memory and then to disk, independently of the speed
//! of the client.

mod spool;
mod spool_reader;
mod spool_writer;

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

use self::{spool_reader::SpoolReader, spool_writer::SpoolWriter};
use crate::{
    Body, Budget, HttpService, Request, Response,
    body::HttpBody,
    budget::BudgetExhausted,
    conn::RequestInfo,
    error::{BoxError, Error, Kind},
    net::process_budget,
};

/// The default size of the part of a response that is kept in memory, 256 KiB: nearly every page fits, and
/// a thousand slow clients take at most 256 MiB.
pub const MAX_MEMORY: usize = 256 << 10;

/// The default size of the part of a response that goes to disk, 1 GiB, as nginx's
/// `proxy_max_temp_file_size`.
pub const MAX_DISK: u64 = 1 << 30;

/// The largest body in one piece that passes unchanged, 16 KiB: it is written together with its head.
const MAX_PASSED_LEN: usize = 16 << 10;

/// Wraps a service in [`ResponseBuffer`]. Put it in front of workers.
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
    /// Creates a layer that keeps up to [`MAX_MEMORY`] of each response in memory and [`MAX_DISK`] on disk.
    pub fn new() -> Self {
        Self {
            options: Options {
                max_memory: MAX_MEMORY,
                max_disk: MAX_DISK,
                budget: process_budget(),
            },
        }
    }

    /// Sets how many bytes of one response are kept in memory. The last piece may exceed it. Defaults to
    /// [`MAX_MEMORY`].
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.options.max_memory = bytes;
        self
    }

    /// Sets how many bytes of one response are kept on disk; zero disables the disk. Above both limits
    /// the body is read only as fast as the client reads. The last piece may exceed the limit. Defaults
    /// to [`MAX_DISK`].
    #[must_use]
    pub fn max_disk(mut self, bytes: u64) -> Self {
        self.options.max_disk = bytes;
        self
    }

    /// Sets the budget that it shares with other buffers. Defaults to [`process_budget`].
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

/// Frees the inner service before a slow client has read the response.
///
/// Heads and bytes that the client can read now are never delayed. A slice of a file passes unchanged. A
/// body that is complete at once becomes bytes. Any other body is read by a task: into memory up to a
/// limit, then to an unnamed temporary file, and above both limits as fast as the client reads. At its end
/// the inner body is dropped, and with it everything that it holds: a worker, a permit, a connection.
///
/// - While the [`Budget`] is above its soft limit, bodies go to disk instead of memory. When it is
///   exhausted, a request fails with an error of [`Kind::Overloaded`], 503, and the inner service is not
///   called: it is replaced by a clone, so that nothing stays reserved.
/// - A disk that is full or fails breaks no response: its body then waits for the client.
/// - A client that disconnects ends the task and drops the body.
/// - An error of the body reaches the client after the bytes before it.
/// - A known length stays known; trailers are kept.
/// - Event streams (`content-type: text/event-stream`) and responses with `x-accel-buffering: no` are not
///   buffered.
///
/// Its futures need a tokio runtime.
#[derive(Debug, Clone)]
pub struct ResponseBuffer<S> {
    inner: S,
    options: Options,
}

impl<S> ResponseBuffer<S> {
    /// Wraps `inner` with the limits [`MAX_MEMORY`] and [`MAX_DISK`] for each response.
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
        if options.budget.is_exhausted() {
            options.budget.count_refused();
            self.inner = self.inner.clone(); // releases what `poll_ready` has reserved
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
    /// `None` if the request was refused and the inner service not called.
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
            return Poll::Ready(Err(Error::new(Kind::Overloaded, BudgetExhausted).into()));
        };
        let response = ready!(inner.poll(cx)).map_err(Into::into)?.map(Body::new);
        Poll::Ready(Ok(if is_unbuffered(&response) {
            response
        } else {
            response.map(|body| buffer(body, this.options, this.request, cx))
        }))
    }
}

/// Returns whether the body passes unchanged: it is available already, or must not be delayed.
fn is_unbuffered(response: &Response) -> bool {
    let body = response.body();
    if response.status().is_informational() {
        return true; // 101: the body is open as long as the tunnel
    }
    if body.as_bytes().is_some_and(|b| b.len() <= MAX_PASSED_LEN) || body.as_file().is_some() {
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

/// Reads what is available now; a task reads the rest, if any.
fn buffer(mut body: Body, options: &Options, request: &RequestInfo, cx: &mut Context<'_>) -> Body {
    let mut writer = SpoolWriter::new(body.len(), options, request.clone());
    let spool = writer.spool();
    let mut ended = None;
    if let Poll::Ready(end) = writer.poll_fill(&mut body, cx) {
        // Frees the inner service before the client can see the end.
        body = Body::empty();
        if !writer.is_writing() {
            return writer.into_complete_body(end);
        }
        ended = Some(end);
    }
    let task = spawn(async move {
        let end = match ended {
            Some(end) => end,
            None => poll_fn(|cx| writer.poll_fill(&mut body, cx)).await,
        };
        drop(body);
        poll_fn(|cx| writer.poll_flush(cx)).await;
        writer.finish(end);
    });
    Body::segmented(SpoolReader::new(spool, Some(task)))
}

/// Spawns a task that the outgoing body aborts when it is dropped.
#[allow(clippy::disallowed_methods, reason = "aborted when the outgoing body is dropped")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    tokio::spawn(work).abort_handle()
}

/// The end of a body: complete, with its trailers if any, or an error.
type BodyEnd = Result<Option<HeaderMap>, BoxError>;

#[cfg(test)]
mod tests;
