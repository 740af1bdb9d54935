//! Streams that a service takes over after `101 Switching Protocols` (RFC 9110 section 7.8), such as WebSockets.
//!
//! A service answers a request that [asks for it](crate::semantics::upgrade::requested) with 101 and a
//! function of the stream, by [`switch`]. The driver sends the head, and then runs the function's future in the
//! connection's own task: a shutdown waits for it as for a request, and aborts it after the same time.
//!
//! WebSockets over HTTP/2 (RFC 8441) are requests of the same form for the service, and their stream is one of the
//! connection's.
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
//!     }))
//! }
//! # let _ = echo;
//! ```

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use http::{
    HeaderValue, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Response, body::Body, net::Io};

/// The stream of an upgraded connection, with the bytes that were read ahead.
pub struct Upgraded {
    io: Box<dyn Io>,
    read_ahead: BytesMut,
    written: Arc<AtomicU64>,
}

/// A tunnel's future, which the connection runs.
pub(crate) type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

type Start = Box<dyn FnOnce(Upgraded) -> Tunnel + Send>;

/// What a service does with the stream, in the extensions of its response.
#[derive(Clone)]
pub(crate) struct Takeover(Arc<Mutex<Option<Start>>>);

/// Returns the response `101 Switching Protocols` to `protocol`, for example `websocket`, after which `run` has the
/// stream. Further fields, such as `Sec-WebSocket-Accept`, are the service's.
///
/// To a request that does not ask for a switch it is a response that cannot be sent: 500.
///
/// # Panics
/// `protocol` is no valid field value.
pub fn switch<F>(
    protocol: &'static str,
    run: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    take_over(&mut response, run);
    response
}

/// Sets what is done with the stream after a response of 101.
pub fn take_over<F>(response: &mut Response, run: impl FnOnce(Upgraded) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let start: Start = Box::new(move |stream| Box::pin(run(stream)));
    response.extensions_mut().insert(Takeover(Arc::new(Mutex::new(Some(start)))));
}

impl Takeover {
    /// Returns the tunnel over a stream; `None` if a clone has begun it.
    pub(crate) fn begin(&self, stream: Upgraded) -> Option<Tunnel> {
        let start = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(start(stream))
    }
}

impl Upgraded {
    pub(crate) fn new(io: impl Io + 'static, read_ahead: BytesMut) -> Self {
        Self { io: Box::new(io), read_ahead, written: Arc::default() }
    }

    /// Returns the counter of the bytes that are written.
    pub(crate) fn written(&self) -> Arc<AtomicU64> {
        self.written.clone()
    }

    fn count(&self, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(n)) = result {
            self.written.fetch_add(*n as u64, Ordering::Relaxed);
        }
    }
}

impl Io for Upgraded {
    fn needs_shutdown(&self) -> bool {
        self.io.needs_shutdown()
    }

    fn reset_on_close(&mut self) {
        self.io.reset_on_close();
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read_ahead.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let n = buf.remaining().min(this.read_ahead.len());
        buf.put_slice(&this.read_ahead[..n]);
        this.read_ahead.advance(n);
        if this.read_ahead.is_empty() {
            this.read_ahead = BytesMut::new(); // frees the allocation
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.count(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.count(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded")
            .field("read_ahead", &self.read_ahead.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}
