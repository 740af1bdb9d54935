//! `Log`: the access log, one line for each request, when its response has ended.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, StatusCode, Uri, Version, uri::Scheme};
use http_body::{Body as _, SizeHint};
use pin_project::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Body, HttpService, Request, Response,
    body::{HttpBody, PollStretch, Stretches},
    peer::Peer,
};

/// The `tracing` target of access lines.
pub const TARGET: &str = "vestibule::access";

/// What the access log knows of one request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Entry {
    /// The client and how it came: address, scheme, TLS facts. `None` without a server's [`Peer`].
    pub peer: Option<Peer>,
    /// The request's method.
    pub method: Method,
    /// The request's target. Its query may hold secrets: the default log writes the path alone.
    pub uri: Uri,
    /// The request's version.
    pub version: Version,
    /// The response's status; `None` if there was no response, since the client left before it
    /// or the service failed.
    pub status: Option<StatusCode>,
    /// Bytes of the body. Of one in memory or in a file this is its length, as the line is written
    /// when it is handed over; of any other, what was really taken.
    pub bytes: u64,
    /// Was the whole body taken?
    pub complete: bool,
    /// From the call to the moment of this entry.
    pub elapsed: Duration,
}

/// Writes an entry as an `info` event of [`TARGET`].
///
/// Its fields are `client`, `scheme`, `method`, `path`, `version`, `status` (0 if there was no
/// response), `bytes`, `complete` and `micros`.
pub fn trace(entry: &Entry) {
    let client = entry.peer.as_ref().map(tracing::field::display);
    let scheme = entry.peer.as_ref().map(Peer::scheme);
    tracing::info!(
        target: TARGET,
        client,
        scheme = scheme.as_ref().map(Scheme::as_str),
        method = entry.method.as_str(),
        path = entry.uri.path(),
        version = ?entry.version,
        status = entry.status.map_or(0, |s| s.as_u16()),
        bytes = entry.bytes,
        complete = entry.complete,
        micros = u64::try_from(entry.elapsed.as_micros()).unwrap_or(u64::MAX),
    );
}

/// Wraps a service in [`Log`]. It stands outermost.
#[derive(Clone)]
pub struct LogLayer {
    write: Arc<Write>,
}

type Write = dyn Fn(&Entry) + Send + Sync;

impl LogLayer {
    /// Writes through `tracing`, as [`trace`] does.
    pub fn new() -> Self {
        Self { write: Arc::new(trace) }
    }

    /// Writes elsewhere. `write` runs on the thread that serves the client: it must not block.
    ///
    /// ```
    /// use vestibule::layer::LogLayer;
    ///
    /// let layer = LogLayer::with(|entry| println!("{} {:?}", entry.uri, entry.status));
    /// # drop(layer);
    /// ```
    pub fn with(write: impl Fn(&Entry) + Send + Sync + 'static) -> Self {
        Self { write: Arc::new(write) }
    }
}

impl Default for LogLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for LogLayer {
    type Service = Log<S>;

    fn layer(&self, inner: S) -> Log<S> {
        Log { inner, write: self.write.clone() }
    }
}

/// Writes one [`Entry`] for each request that was called.
///
/// A response in memory or in a file is written down when it is handed over, and keeps its kind.
/// Any other body is counted on its way, and written down when it ends or is dropped. A request
/// without a response is written down too.
#[derive(Clone)]
pub struct Log<S> {
    inner: S,
    write: Arc<Write>,
}

impl<S> Log<S> {
    /// Wraps `inner`; writes through `tracing`.
    pub fn new(inner: S) -> Self {
        LogLayer::new().layer(inner)
    }
}

impl<S: fmt::Debug> fmt::Debug for Log<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<B>> for Log<S>
where
    S: HttpService<B>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let entry = Entry {
            peer: request.extensions().get().cloned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            status: None,
            bytes: 0,
            complete: false,
            elapsed: Duration::ZERO,
        };
        let line = Line { entry, began: Instant::now(), write: self.write.clone() };
        ResponseFuture { inner: self.inner.call(request), line: Some(line) }
    }
}

/// The future of [`Log`].
#[pin_project]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    /// Taken by the response; else written when this is dropped.
    line: Option<Line>,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let mut line = this.line.take().expect("not polled after its end");
        let response = answer?.map(Body::new); // a line that is dropped without a response says so
        line.entry.status = Some(response.status());
        let body = response.body();
        if body.as_bytes().is_none() && body.as_file().is_none() {
            return Poll::Ready(Ok(response.map(|body| Body::stretches(Counted::new(body, line)))));
        }
        // RFC 9110, section 9.3.2: of an answer to HEAD, no body is sent.
        if line.entry.method != Method::HEAD {
            line.entry.bytes = body.len().unwrap_or(0);
        }
        line.entry.complete = true;
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// An entry that is written when it is dropped, so no way out forgets it.
struct Line {
    entry: Entry,
    began: Instant,
    write: Arc<Write>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.entry.elapsed = self.began.elapsed();
        (self.write)(&self.entry);
    }
}

/// A body that counts what is taken of it.
struct Counted {
    body: Body,
    /// A server may stop at this length, and never ask for the end.
    len: Option<u64>,
    /// Dropped, and so written, at the end.
    line: Option<Line>,
}

impl Counted {
    fn new(body: Body, line: Line) -> Self {
        Self { len: body.len(), body, line: Some(line) }
    }

    fn end(&mut self, complete: bool) {
        if let Some(mut line) = self.line.take() {
            line.entry.complete = complete;
        }
    }
}

impl Stretches for Counted {
    fn poll_stretch(&mut self, cx: &mut Context<'_>) -> PollStretch {
        let stretch = ready!(self.body.poll_stretch(cx));
        match &stretch {
            None => self.end(true),
            Some(Err(_)) => self.end(false),
            Some(Ok(stretch)) => {
                if let Some(line) = &mut self.line {
                    line.entry.bytes += stretch.len();
                }
            }
        }
        Poll::Ready(stretch)
    }

    fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let complete = self.line.as_ref().is_some_and(|line| {
            self.body.is_end_stream()
                || self.len == Some(line.entry.bytes)
                || line.entry.method == Method::HEAD
        });
        self.end(complete);
    }
}

#[cfg(test)]
mod tests;
