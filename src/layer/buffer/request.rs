//! `RequestBuffer`: the service inside is called only when the whole request body is here.

mod capped;
mod reading;
mod trailed;

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

use self::{capped::Capped, reading::Reading};
use crate::{
    Body, Budget, HttpService, Request,
    body::HttpBody,
    budget::Full,
    error::{BoxError, Error, Kind},
    net::process_budget,
};

/// The largest body that is taken, unless set otherwise: 1 MiB, as nginx's
/// `client_max_body_size`. Room for it is taken as the bytes come, not before.
pub const MAX_BODY: u64 = 1 << 20;

/// Up to so much of a body is kept in memory, unless set otherwise: 64 KiB, in which nearly every
/// form and call fits. Larger ones go to disk.
pub const MAX_MEMORY: usize = 64 << 10;

/// The request's body is larger than the buffer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The bound, in bytes.
    pub limit: u64,
}

/// Wraps a service in [`RequestBuffer`]. It stands directly in front of workers.
#[derive(Debug, Clone)]
pub struct RequestBufferLayer {
    options: Options,
}

/// Which requests are meant.
type Which = dyn Fn(&Request) -> bool + Send + Sync;

#[derive(Clone)]
struct Options {
    max_body: u64,
    max_memory: usize,
    budget: Budget,
    streams: Option<Arc<Which>>,
}

impl RequestBufferLayer {
    /// Bodies of up to [`MAX_BODY`], each with up to [`MAX_MEMORY`] in memory.
    pub fn new() -> Self {
        let (max_body, max_memory) = (MAX_BODY, MAX_MEMORY);
        Self { options: Options { max_body, max_memory, budget: process_budget(), streams: None } }
    }

    /// The largest body that is taken, in bytes. Default [`MAX_BODY`].
    ///
    /// It holds for all requests that go through this layer. Of two buffers, one inside of the other, the
    /// outer one reads the body first: a body above its bound never reaches the inner one, whose larger
    /// bound has no effect, and a smaller bound of the inner one refuses the whole body. For a route that
    /// takes larger uploads give the outer one the largest bound of all routes, or put a buffer in front
    /// of each route instead of one in front of the router.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> Self {
        self.options.max_body = bytes;
        self
    }

    /// Bytes of a body that are kept in memory; a larger one goes to disk, whole.
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.options.max_memory = bytes;
        self
    }

    /// The budget that it shares with other buffers; [`process_budget`] if not set.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.options.budget = budget;
        self
    }

    /// Requests for which this is true are handed on at once, with their body as it comes, still
    /// not larger than [`max_body`](Self::max_body): uploads that the service wants to see while
    /// they come. None by default.
    #[must_use]
    pub fn stream_if(mut self, which: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.options.streams = Some(Arc::new(which));
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

/// Calls the service inside with whole requests only: their body is in memory, in one piece, or in
/// a temporary file without a name.
///
/// It is ready by itself. The readiness of the service inside, which may hold a place in a queue,
/// is asked for once the body is here, so no place is ever held for a client that is still sending.
///
/// - A body that came in one piece passes as it is, without a copy; so does a slice of a file.
/// - A body above what is kept in memory is a [slice of a file](crate::Body::as_file), to be read, handed
///   on as a descriptor, or sent by `sendfile`. Either can be [had twice](crate::Body::replay).
/// - When the [`Budget`] is tight bodies go to disk at once; when it is spent, or the disk is full,
///   the request is an error of [`Kind::Overloaded`], 503.
/// - A body above the bound is an error of [`Kind::TooLarge`] whose source is [`BodyTooLarge`]:
///   at once if its length was declared, otherwise where it grows above.
/// - An error of the body, such as a client that left, is passed on as it is.
/// - Trailers are kept; a body that has them is frames of data, then a frame of trailers, and does
///   not tell its length, since only a chunked body can carry them (RFC 9112 section 7.1.2).
/// - Headers are not touched: a length that was not declared stays undeclared, and
///   [`Body::len`](crate::Body::len) knows it, where there are no trailers.
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::RequestBufferLayer};
///
/// let app = service_fn(|r: Request| async move {
///     let body = r.body().as_bytes().expect("the whole body is here");
///     Ok::<_, BoxError>(Response::new(Body::from(body)))
/// });
/// let buffered = RequestBufferLayer::new().max_body(32 << 10).layer(app);
/// # drop(buffered);
/// ```
#[derive(Debug, Clone)]
pub struct RequestBuffer<S> {
    /// Never polled itself: each call readies a clone of its own.
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
            Ok(Size::Whole) => State::Ready { service, request: Some(request) },
            Ok(Size::Streamed) => {
                let request = request.map(|b| Capped::cap(b, self.options.max_body));
                State::Ready { service, request: Some(request) }
            }
            Ok(Size::Unknown) => State::Reading {
                service: Some(service),
                reading: Box::new(Reading::new(request, &self.options)),
            },
        };
        ResponseFuture { state }
    }
}

/// What is known of a body before it is read.
enum Size {
    /// It is here already.
    Whole,
    /// Nobody waits for its end.
    Streamed,
    Unknown,
}

impl Options {
    /// Refuses what is known to be too large, or has no room, before a byte of it is read.
    fn admit(&self, request: &Request) -> Result<Size, BoxError> {
        let body = request.body();
        let whole = body.as_bytes().is_some() || body.as_file().is_some();
        let declared = if whole { None } else { request.headers().get(CONTENT_LENGTH) };
        let declared = declared.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        if body.size_hint().lower().max(declared) > self.max_body {
            return Err(too_large(self.max_body));
        }
        if whole {
            return Ok(Size::Whole);
        }
        if self.streams.as_ref().is_some_and(|streams| streams(request)) {
            return Ok(Size::Streamed);
        }
        if self.budget.is_spent() {
            return Err(no_room(&self.budget, Full));
        }
        Ok(Size::Unknown)
    }
}

fn no_room(budget: &Budget, why: impl Into<BoxError>) -> BoxError {
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
#[allow(clippy::large_enum_variant, reason = "a request that came whole is not boxed")]
enum State<S, F> {
    Refused(Option<BoxError>),
    /// The body is on its way. Boxed: a request that came whole does not pay for its size.
    Reading {
        service: Option<S>,
        reading: Box<Reading>,
    },
    /// The body is here, the service is asked for readiness.
    Ready {
        service: S,
        request: Option<Request>,
    },
    Called(#[pin] F),
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
                StateProj::Reading { service, reading } => {
                    let request = Some(ready!(reading.poll(cx))?);
                    let service = service.take().expect("a body ends once");
                    State::Ready { service, request }
                }
                StateProj::Ready { service, request } => {
                    ready!(service.poll_ready(cx)).map_err(Into::into)?;
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
        let Self { max_body, max_memory, budget, streams } = self;
        f.debug_struct("Options")
            .field("max_body", max_body)
            .field("max_memory", max_memory)
            .field("budget", budget)
            .field("streams", &streams.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests;
