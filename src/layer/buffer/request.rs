//! `RequestBuffer`: the service inside is called only when the whole request body is here.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH, request::Parts};
use http_body::Body as _;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Body, Request, Response,
    error::{BoxError, Error, Kind},
};

/// The largest body that is taken, unless set otherwise: 1 MiB, as nginx's
/// `client_max_body_size`. The memory for it is taken as the bytes come, not before.
pub const MAX_BODY: usize = 1 << 20;

/// The request's body is larger than the buffer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The bound, in bytes.
    pub limit: usize,
}

/// Wraps a service in [`RequestBuffer`]. It stands directly in front of workers.
#[derive(Debug, Clone, Copy)]
pub struct RequestBufferLayer {
    max_body: usize,
}

impl RequestBufferLayer {
    /// Bodies of up to [`MAX_BODY`].
    pub fn new() -> Self {
        Self { max_body: MAX_BODY }
    }

    /// The largest body that is taken, in bytes.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
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
        RequestBuffer { inner, max_body: self.max_body }
    }
}

/// Calls the service inside with whole requests only: their body is in memory, in one piece.
///
/// It is ready by itself. The readiness of the service inside, which may hold a place in a queue,
/// is asked for once the body is here, so no place is ever held for a client that is still sending.
///
/// - A body that came in one piece passes as it is, without a copy; so does a slice of a file.
/// - A body above the bound is an error of [`Kind::TooLarge`] whose source is [`BodyTooLarge`]:
///   at once if its length was declared, otherwise where it grows above.
/// - An error of the body, such as a client that left, is passed on as it is.
/// - Trailers are kept; a body that has them is a frame of data, then a frame of trailers.
/// - Headers are not touched: a length that was not declared stays undeclared, and
///   [`Body::len`] knows it.
///
/// ```
/// use tower::{Layer, service_fn};
/// use vestibule::{Body, BoxError, Request, Response, layer::RequestBufferLayer};
///
/// let app = service_fn(|r: Request| async move {
///     let body = r.body().as_bytes().expect("the whole body is here");
///     Ok::<_, BoxError>(Response::new(Body::from(body)))
/// });
/// let buffered = RequestBufferLayer::new().max_body(64 << 10).layer(app);
/// # drop(buffered);
/// ```
#[derive(Debug, Clone)]
pub struct RequestBuffer<S> {
    /// Never polled itself: each call readies a clone of its own.
    inner: S,
    max_body: usize,
}

impl<S> RequestBuffer<S> {
    /// Wraps `inner`, for bodies of up to [`MAX_BODY`].
    pub fn new(inner: S) -> Self {
        RequestBufferLayer::new().layer(inner)
    }
}

impl<S> Service<Request> for RequestBuffer<S>
where
    S: Service<Request, Response = Response> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = BoxError;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let service = self.inner.clone();
        let state = match admit(&request, self.max_body) {
            Err(e) => State::Refused(Some(e)),
            Ok(Size::Whole) => State::Ready { service, request: Some(request) },
            Ok(Size::Streamed) => State::Reading {
                service: Some(service),
                reading: Box::new(Reading::new(request, self.max_body)),
            },
        };
        ResponseFuture { state }
    }
}

/// Is the body here already?
enum Size {
    Whole,
    Streamed,
}

/// Refuses what is known to be too large before a byte of it is read.
fn admit(request: &Request, limit: usize) -> Result<Size, BoxError> {
    let body = request.body();
    if body.as_file().is_some() {
        return Ok(Size::Whole);
    }
    let whole = body.as_bytes().is_some();
    let declared = if whole { None } else { request.headers().get(CONTENT_LENGTH) };
    let declared = declared.and_then(|v| v.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if body.size_hint().lower().max(declared) > limit as u64 {
        return Err(too_large(limit));
    }
    Ok(if whole { Size::Whole } else { Size::Streamed })
}

fn too_large(limit: usize) -> BoxError {
    Error::new(Kind::TooLarge, BodyTooLarge { limit }).into()
}

/// A request whose body is on its way.
struct Reading {
    /// Taken when the body is complete.
    parts: Option<Parts>,
    body: Body,
    limit: usize,
    /// The first piece, not copied: most bodies have no second one.
    first: Bytes,
    /// All pieces, once there are two. They are copied, since a small piece may keep a large read
    /// buffer alive.
    all: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Reading {
    fn new(request: Request, limit: usize) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            parts: Some(parts),
            body,
            limit,
            first: Bytes::new(),
            all: BytesMut::new(),
            trailers: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request, BoxError>> {
        while let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            match frame?.into_data() {
                Ok(data) => self.push(data)?,
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
        let parts = self.parts.take().expect("a body ends once");
        Poll::Ready(Ok(Request::from_parts(parts, self.whole())))
    }

    fn push(&mut self, data: Bytes) -> Result<(), BoxError> {
        // One of the two is empty.
        let have = self.first.len() + self.all.len();
        if data.len() > self.limit - have {
            return Err(too_large(self.limit));
        }
        if have == 0 {
            self.first = data;
            return Ok(());
        }
        if self.all.is_empty() {
            self.all.reserve(have + data.len());
            self.all.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
        Ok(())
    }

    fn whole(&mut self) -> Body {
        let first = std::mem::take(&mut self.first);
        let data = if self.all.is_empty() { first } else { self.all.split().freeze() };
        let Some(trailers) = self.trailers.take() else { return data.into() };
        let (tx, body) = Body::channel(Some(data.len() as u64));
        tx.send(data).expect("its reader is held here");
        tx.finish(Some(trailers));
        body
    }
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

impl<S> Future for ResponseFuture<S>
where
    S: Service<Request, Response = Response>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response, BoxError>;

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

#[cfg(test)]
mod tests;
