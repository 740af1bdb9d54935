//! `RequestBuffer`: calls the inner service once the whole request body has been received.

mod collect;
mod limited;
mod with_trailers;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::header::CONTENT_LENGTH;
use http_body::Body as _;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use self::{collect::Collect, limited::Limited};
use crate::{
    Body, Budget, HttpService, Request,
    body::HttpBody,
    budget::BudgetExhausted,
    error::{BoxError, Error, Kind},
    net::process_budget,
    service::Readiness,
};

/// The default largest body, 1 MiB, as nginx's `client_max_body_size`. Memory is taken as the bytes
/// arrive, not before.
pub const MAX_BODY: u64 = 1 << 20;

/// The default size up to which a body is kept in memory, 64 KiB: enough for nearly every form and API
/// call. Larger bodies go to disk.
pub const MAX_MEMORY: usize = 64 << 10;

/// The request body exceeds the limit of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The limit in bytes.
    pub limit: u64,
}

/// Wraps a service in [`RequestBuffer`]. Put it directly in front of workers.
#[derive(Debug, Clone)]
pub struct RequestBufferLayer {
    options: Options,
}

/// Selects requests.
type Predicate = dyn Fn(&Request) -> bool + Send + Sync;

#[derive(Clone)]
struct Options {
    max_body: u64,
    max_memory: usize,
    budget: Budget,
    stream_if: Option<Arc<Predicate>>,
}

impl RequestBufferLayer {
    /// Creates a layer for bodies of up to [`MAX_BODY`], each with up to [`MAX_MEMORY`] in memory.
    pub fn new() -> Self {
        let (max_body, max_memory) = (MAX_BODY, MAX_MEMORY);
        Self {
            options: Options { max_body, max_memory, budget: process_budget(), stream_if: None },
        }
    }

    /// Sets the largest body in bytes. Defaults to [`MAX_BODY`].
    ///
    /// The limit applies to every request that passes this layer. Of two nested buffers the outer one reads
    /// the body first: a body above its limit never reaches the inner one, whose larger limit has no
    /// effect, and a smaller limit of the inner one refuses the whole body. For a route that accepts larger
    /// uploads give the outer buffer the largest limit of all routes, or put a buffer in front of each
    /// route instead of one in front of the router.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.options.max_body = bytes;
        self
    }

    /// Sets the size in bytes up to which a body is kept in memory. A larger body goes to disk as a whole.
    /// Defaults to [`MAX_MEMORY`].
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.options.max_memory = bytes;
        self
    }

    /// Sets the budget that it shares with other buffers. Defaults to [`process_budget`].
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.options.budget = budget;
        self
    }

    /// Streams the body of requests for which `predicate` returns `true`: the inner service is called at
    /// once and reads the body as it arrives, still limited to [`max_body`](Self::max_body). For uploads
    /// that the service processes while they arrive. By default every body is buffered.
    #[must_use]
    pub fn stream_if(
        mut self,
        predicate: impl Fn(&Request) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.stream_if = Some(Arc::new(predicate));
        self
    }
}

impl Default for RequestBufferLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RequestBufferLayer {
    type Service = RequestBuffer<S>;

    fn layer(&self, inner: S) -> RequestBuffer<S> {
        RequestBuffer { inner, options: self.options.clone() }
    }
}

/// Calls the inner service with complete requests only: the body is in memory, in one piece, or in an
/// unnamed temporary file.
///
/// The buffer is always ready. It polls the inner service, whose readiness may hold a permit, once the
/// body is complete, so no permit is held for a client that is still sending.
///
/// - A body in one piece and a slice of a file pass unchanged, without a copy.
/// - A body above the memory limit becomes a [slice of a file](crate::Body::as_file), which can be read,
///   passed on as a descriptor, or sent by `sendfile`. Both kinds can be [replayed](crate::Body::replay).
/// - While the [`Budget`] is above its soft limit bodies go to disk at once. When it is exhausted, or the
///   disk is full, the request fails with an error of [`Kind::Overloaded`], 503.
/// - A body above the limit is an error of [`Kind::TooLarge`] whose source is [`BodyTooLarge`]:
///   immediately if its length was declared, otherwise when it exceeds the limit.
/// - An error of the body, for example a client disconnect, is passed on unchanged.
/// - Trailers are kept. A body with trailers consists of data frames and one trailers frame and has no
///   known length, since only a chunked body can carry trailers (RFC 9112 section 7.1.2).
/// - Header fields are not changed: an undeclared length stays undeclared, and
///   [`Body::len`](crate::Body::len) returns it where there are no trailers.
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::RequestBufferLayer};
///
/// let app = service_fn(|r: Request| async move {
///     let body = r.body().as_bytes().expect("the body is complete and in memory");
///     Ok::<_, BoxError>(Response::new(Body::from(body)))
/// });
/// let buffered = RequestBufferLayer::new().max_body(32 << 10).layer(app);
/// # drop(buffered);
/// ```
#[derive(Debug, Clone)]
pub struct RequestBuffer<S> {
    /// Never polled: each call polls and calls its own clone.
    inner: S,
    options: Options,
}

impl<S> RequestBuffer<S> {
    /// Wraps `inner`, for bodies of up to [`MAX_BODY`].
    pub fn new(inner: S) -> Self {
        RequestBufferLayer::new().layer(inner)
    }
}

impl<S, B> Service<Request<B>> for RequestBuffer<S>
where
    S: HttpService + Clone,
    B: HttpBody,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let request = request.map(Body::new);
        let service = self.inner.clone();
        let state = match self.options.admit(&request) {
            Err(e) => State::Refused(Some(e)),
            Ok(Admitted::Complete) => State::ready(service, request),
            Ok(Admitted::Streamed) => {
                let request = request.map(|b| Limited::wrap(b, self.options.max_body));
                State::ready(service, request)
            }
            Ok(Admitted::Incomplete) => State::Collecting {
                service: Some(service),
                collect: Box::new(Collect::new(request, &self.options)),
            },
        };
        ResponseFuture { state }
    }
}

/// How an admitted body is handled.
enum Admitted {
    /// The body is already complete.
    Complete,
    /// The body is passed on as it arrives.
    Streamed,
    /// The body is buffered first.
    Incomplete,
}

impl Options {
    /// Refuses a body that is known to be too large, or that the budget has no room for, before a byte of it
    /// is read.
    fn admit(&self, request: &Request) -> Result<Admitted, BoxError> {
        let body = request.body();
        let is_complete = body.as_bytes().is_some() || body.as_file().is_some();
        let declared = if is_complete { None } else { request.headers().get(CONTENT_LENGTH) };
        let declared = declared.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        if body.size_hint().lower().max(declared) > self.max_body {
            return Err(too_large(self.max_body));
        }
        if is_complete {
            return Ok(Admitted::Complete);
        }
        if self.stream_if.as_ref().is_some_and(|is_streamed| is_streamed(request)) {
            return Ok(Admitted::Streamed);
        }
        if self.budget.is_exhausted() {
            return Err(overloaded(&self.budget, BudgetExhausted));
        }
        Ok(Admitted::Incomplete)
    }
}

fn overloaded(budget: &Budget, why: impl Into<BoxError>) -> BoxError {
    budget.count_refused();
    Error::new(Kind::Overloaded, why).into()
}

fn too_large(limit: u64) -> BoxError {
    Error::new(Kind::TooLarge, BodyTooLarge { limit }).into()
}

/// The future of [`RequestBuffer`].
#[pin_project]
pub struct ResponseFuture<S: Service<Request>> {
    #[pin]
    state: State<S, S::Future>,
}

#[pin_project(project = StateProj)]
#[allow(clippy::large_enum_variant, reason = "a complete request is not boxed")]
enum State<S, F> {
    Refused(Option<BoxError>),
    /// The body is being received. Boxed, so that complete requests have a smaller future.
    Collecting {
        service: Option<S>,
        collect: Box<Collect>,
    },
    /// The body is complete; the inner service is polled for readiness.
    Ready {
        service: S,
        request: Option<Request>,
        readiness: Readiness,
    },
    Called(#[pin] F),
}

impl<S, F> State<S, F> {
    fn ready(service: S, request: Request) -> Self {
        let readiness = Readiness::new(request.extensions());
        Self::Ready { service, request: Some(request), readiness }
    }
}

impl<S: HttpService> Future for ResponseFuture<S> {
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Refused(e) => {
                    return Poll::Ready(Err(e.take().expect("not polled after its end")));
                }
                StateProj::Collecting { service, collect } => {
                    let request = ready!(collect.poll(cx))?;
                    let service = service.take().expect("a body ends once");
                    State::ready(service, request)
                }
                StateProj::Ready { service, request, readiness } => {
                    ready!(readiness.poll(service, cx))?;
                    State::Called(service.call(request.take().expect("called once")))
                }
                StateProj::Called(f) => return f.poll(cx).map_err(Into::into),
            };
            state.set(next);
        }
    }
}

impl<S: Service<Request>> fmt::Debug for ResponseFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_body, max_memory, budget, stream_if } = self;
        f.debug_struct("Options")
            .field("max_body", max_body)
            .field("max_memory", max_memory)
            .field("budget", budget)
            .field("stream_if", &stream_if.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests;
