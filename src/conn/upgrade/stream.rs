//! `Upgraded`: the stream of an upgraded connection.

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

use crate::{conn::read_ahead::ReadAhead, net::Io};

/// The stream of an upgraded connection, beginning with the bytes that were read ahead.
pub struct Upgraded {
    io: Box<dyn Io>,
    read_ahead: ReadAhead,
    pub(super) written: Arc<AtomicU64>,
    /// Whether a shutdown has started; `None` for a connection to a server.
    pub(super) draining: Option<watch::Receiver<bool>>,
}

impl Upgraded {
    pub(crate) fn new(io: impl Io + 'static, read_ahead: BytesMut) -> Self {
        let read_ahead = ReadAhead::new(read_ahead);
        Self { io: Box::new(io), read_ahead, written: Arc::default(), draining: None }
    }

    /// Waits until a shutdown of the server has begun. The tunnel should end then, a WebSocket by a Close frame: it
    /// is aborted after the [`shutdown_timeout`](crate::serve::Serve::shutdown_timeout). Never ready for a connection
    /// to a server.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let draining = self.draining.clone();
        async move {
            if let Some(mut draining) = draining
                && draining.wait_for(|is_draining| *is_draining).await.is_ok()
            {
                return;
            }
            std::future::pending().await // the connection has ended, and the tunnel is dropped
        }
    }

    /// Returns a check of whether [`draining`](Self::draining) may be ready, which costs less than a poll of it.
    #[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for tunnels to servers"))]
    pub(crate) fn may_be_draining(&self) -> impl Fn() -> bool + Send + use<> {
        let draining = self.draining.clone();
        move || draining.as_ref().is_some_and(|watch| !matches!(watch.has_changed(), Ok(false)))
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

    fn is_read_pending(&self) -> bool {
        self.read_ahead.len() == 0 && self.io.is_read_pending()
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.io.poll_reset(cx)
    }

    fn send_queue_len(&self) -> Option<u64> {
        self.io.send_queue_len()
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
        this.read_ahead.poll_read(&mut this.io, cx, buf)
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
