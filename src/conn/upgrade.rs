//! Streams that a service takes over after `101 Switching Protocols` (RFC 9110 section 7.8), such as WebSockets.
//!
//! A service accepts a request that [asks for a switch](crate::semantics::upgrade::requested) by [`switch`]: a
//! response of 101 with a function that takes the stream. The driver sends the head, and then runs the function's
//! future in the connection's own task: a shutdown waits for it as for a request, and aborts it after the same time.
//!
//! The body of such a response is dropped when the tunnel has ended. So layers hold their permits, and count the
//! request as in flight, for the life of the tunnel.
//!
//! A client that has sent such a request by [`h1::client`](crate::conn::h1::client) gets the stream from
//! [`take_stream`].
//!
//! A WebSocket over HTTP/2 (RFC 8441) is the same request for the service; its stream is a stream of the HTTP/2
//! connection. A shutdown of the stream ends it in order. A stream that is dropped without a shutdown is closed over
//! HTTP/1.1 and reset over HTTP/2, in both cases behind the data that was written. If the function passes the stream to
//! another task, only data that was flushed is sent before the reset.
//!
//! ```
//! use std::convert::Infallible;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use vestibule::{Body, Request, Response, conn::upgrade};
//!
//! async fn echo(_request: Request) -> Result<Response, Infallible> {
//!     Ok(upgrade::switch("echo", |mut stream| async move {
//!         let mut byte = [0];
//!         while let Ok(1) = stream.read(&mut byte).await {
//!             let _ = stream.write_all(&byte).await;
//!         }
//!         let _ = stream.shutdown().await;
//!     }))
//! }
//! # let _ = echo;
//! ```

mod stream;

use std::{
    any::Any,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::BytesMut;
use http::{
    HeaderValue, StatusCode,
    header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_VERSION},
};
use http_body::SizeHint;
use tokio::sync::watch;

use super::websocket;
use crate::{
    Response,
    body::{Body, PollSegment, Segments},
    net::Io,
    semantics::{
        problem::{self, Format},
        upgrade,
    },
};

pub use stream::Upgraded;

/// A tunnel, which runs in the task of its connection.
pub(crate) struct Tunnel {
    future: TunnelFuture,
    written: Arc<AtomicU64>,
    draining: watch::Sender<bool>,
    /// The body of the response of 101, since it may hold permits. It is dropped after the stream.
    _body: Body,
}

type TunnelFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

type Start = Box<dyn FnOnce(Upgraded) -> TunnelFuture + Send>;

/// The function that takes the stream, in the extensions of a response of 101.
#[derive(Clone)]
pub(crate) struct Takeover(Arc<Mutex<Option<Start>>>);

/// The stream of a server that has switched protocols, in the extensions of its response.
#[derive(Clone)]
struct StreamSlot(Arc<Mutex<Option<Upgraded>>>);

/// Returns the response `101 Switching Protocols` to `protocol`, for example `websocket`. `run` gets the stream when
/// the head was sent. The caller adds further fields, such as `Sec-WebSocket-Accept`.
///
/// If the request did not ask for a switch, the driver sends 500 instead.
///
/// # Panics
/// If `protocol` is not a valid field value.
pub fn switch<F>(
    protocol: &'static str,
    run: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    upgrade::set(response.headers_mut(), HeaderValue::from_static(protocol));
    take_over(&mut response, run);
    response
}

/// Returns the successful response to a CONNECT (RFC 9110 section 9.3.6). `run` gets the stream when the head was sent.
///
/// If the method is not CONNECT, the driver sends 500 instead. The driver refuses CONNECT unless
/// [`Limits::allow_connect`](crate::proto::h1::Limits::allow_connect) is set.
pub fn connected<F>(run: impl FnOnce(Upgraded) -> F + Send + 'static) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::empty());
    take_over(&mut response, run);
    response
}

/// Returns the response of 101 to a request for a WebSocket (RFC 6455 section 4.2). `run` gets the stream, and reads
/// and writes the frames, for example by the crate `tokio-tungstenite`. Check the request first, above all its
/// `Origin`: a page of another site can open a WebSocket to this site, and the browser sends this site's cookies.
///
/// Returns 400 for any other request, and 426 for a version other than 13 (section 4.4). Then `run` is dropped.
///
/// ```
/// use std::convert::Infallible;
/// use vestibule::{Request, Response, conn::upgrade};
///
/// async fn chat(request: Request) -> Result<Response, Infallible> {
///     Ok(upgrade::websocket(&request, |stream| async move {
///         // WebSocketStream::from_raw_socket(stream, Role::Server, None).await ...
///         drop(stream);
///     }))
/// }
/// # let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// let response = rt.block_on(chat(Request::default())).unwrap();
/// assert_eq!(response.status(), 400);
/// ```
pub fn websocket<B, F>(
    request: &http::Request<B>,
    run: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    match accept(request) {
        Ok(accept) => {
            let mut response = switch("websocket", run);
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
            response
        }
        Err(refused) => *refused,
    }
}

/// Returns the `Sec-WebSocket-Accept` for a request for a WebSocket.
///
/// # Errors
/// The response to send to any other request.
pub(crate) fn accept<B>(request: &http::Request<B>) -> Result<HeaderValue, Box<Response>> {
    let (status, detail) = match websocket::requested_key(request) {
        Ok(key) => return Ok(websocket::accept(key)),
        Err(websocket::Refusal::Malformed) => {
            (StatusCode::BAD_REQUEST, "this resource is a WebSocket")
        }
        Err(websocket::Refusal::Version) => {
            (StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is supported")
        }
    };
    let mut response =
        problem::response(status, Some(detail), Format::of(request.method(), request.headers()));
    if status == StatusCode::UPGRADE_REQUIRED {
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    Err(Box::new(response))
}

/// Sets the function that gets the stream when the head of this response of 101 was sent. An empty body is replaced
/// by one that does not end before it is dropped.
pub fn take_over<F>(response: &mut Response, run: impl FnOnce(Upgraded) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let start: Start = Box::new(move |stream| Box::pin(run(stream)));
    response.extensions_mut().insert(Takeover(Arc::new(Mutex::new(Some(start)))));
    if response.body().is_complete() {
        *response.body_mut() = open_body(());
    }
}

/// Returns whether a response begins a tunnel: its body never ends, and is dropped with the tunnel.
pub(crate) fn begins_tunnel(response: &Response) -> bool {
    let extensions = response.extensions();
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || extensions.get::<Takeover>().is_some()
        || extensions.get::<StreamSlot>().is_some()
}

/// Takes the stream from the response of a server that has switched protocols. Returns `None` if the server has not
/// switched, or the stream was taken before.
///
/// The response's body must be kept until the stream is dropped: it holds the permit of the connection.
pub fn take_stream<B>(response: &mut http::Response<B>) -> Option<Upgraded> {
    let StreamSlot(slot) = response.extensions_mut().remove()?;
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Puts the stream of a server that has switched protocols into its response.
pub(crate) fn put_stream(response: &mut Response, stream: Upgraded) {
    response.extensions_mut().insert(StreamSlot(Arc::new(Mutex::new(Some(stream)))));
}

/// Returns an empty body that does not end, and holds `guard` until it is dropped.
pub(crate) fn open_body(guard: impl Any + Send) -> Body {
    Body::segmented(OpenBody { _guard: Box::new(guard) })
}

struct OpenBody {
    _guard: Box<dyn Any + Send>,
}

impl Segments for OpenBody {
    fn poll_segment(&mut self, _: &mut Context<'_>) -> PollSegment {
        Poll::Pending
    }

    fn is_end(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

impl Takeover {
    /// Begins the tunnel over a stream. `body` is the body of the response. Returns `None` if a clone of the response
    /// has begun the tunnel before.
    pub(crate) fn begin(
        &self,
        io: impl Io + 'static,
        read_ahead: BytesMut,
        body: Body,
    ) -> Option<Tunnel> {
        let start = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let (draining, watch) = watch::channel(false);
        let mut stream = Upgraded::new(io, read_ahead);
        stream.draining = Some(watch);
        let written = stream.written.clone();
        Some(Tunnel { future: start(stream), written, draining, _body: body })
    }
}

impl Tunnel {
    /// Polls the tunnel. Ready when it has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(cx)
    }

    /// Returns the number of bytes that were written to the client.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Tells the tunnel that a shutdown has started.
    pub(crate) fn begin_drain(&self) {
        self.draining.send_if_modified(|is_draining| !std::mem::replace(is_draining, true));
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}

impl fmt::Debug for StreamSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSlot").finish_non_exhaustive()
    }
}
