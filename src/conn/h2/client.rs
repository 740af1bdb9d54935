//! The client's HTTP/2 driver: one connection that many requests share.

mod exchange;
mod incoming;
mod request;

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use http::{Request, uri::Scheme};
use tokio::sync::{Notify, watch};

use super::wire::{Wire, WireState};

use crate::{
    body::Body,
    conn::Delivery,
    error::{BoxError, Error, Kind},
    net::Io,
    proto::h1::Limits,
};

pub use exchange::Exchange;

/// The flow-control window of one response: 256 KiB. With a round trip of 50 ms that is 5 MiB/s.
const STREAM_WINDOW: u32 = 256 << 10;

/// The flow-control window of all responses of a connection together: that of all requests, 250 MiB. Responses whose
/// clients do not read must not stop those of other clients.
const CONNECTION_WINDOW: u32 = 1_000 * STREAM_WINDOW;

/// Bytes that small DATA frames of the server may take in `h2` beside their content, about 300 each: 64 MiB. Clients that
/// do not read leave them there, and `h2` ends the connection beyond.
const DATA_FRAME_BUDGET: usize = 64 << 20;

/// Time in which the server may still send data of a request that was cancelled: 10 s.
const RESET_MEMORY: Duration = Duration::from_secs(10);

/// Bytes of one request's body that may be queued for the connection: 256 KiB.
const SEND_BUFFER: usize = 256 << 10;

/// Maximum number of requests in flight on one connection: 1,000, even if the server allows more.
const MAX_STREAMS: usize = 1_000;

/// Maximum number of cancelled requests of which the server may still send data: 4,000. For others, `h2` counts each DATA
/// frame as a fault of the server.
const MAX_RESET_STREAMS: usize = 4 * MAX_STREAMS;

/// A connection to a server that many requests share. Cheap to clone.
///
/// Its [`Driver`] must be polled by a separate task.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    limits: Arc<Limits>,
    scheme: Scheme,
    is_closed: AtomicBool,
    /// Requests in flight.
    active: AtomicUsize,
    /// Requests so far; the number may wrap.
    exchanges: AtomicUsize,
    /// Notified when a request has ended.
    freed: OnceLock<Arc<Notify>>,
    /// Whether the server's SETTINGS have been received.
    has_settings: watch::Receiver<bool>,
}

/// The driver of a connection: reads and writes frames for all of its requests. It ends with the connection, or after
/// the last request once all handles are dropped.
pub struct Driver<I: Io> {
    connection: h2::client::Connection<Wire<I>, Bytes>,
    wire: WireState<I>,
    /// The answer to a PING, which comes after the server's SETTINGS (RFC 9113 section 3.4); `None` once it has come.
    pong: Option<PingPong>,
    has_settings: watch::Sender<bool>,
    shared: Arc<Shared>,
}

/// Performs the handshake on a stream whose server is known to support HTTP/2. `limits.head_timeout` is the maximum
/// time from the end of a request to the head of its response, and `limits.body_timeout` is the maximum time without
/// progress in its body and in sending.
///
/// # Errors
/// Those of the stream.
pub async fn handshake<I: Io>(
    io: I,
    scheme: Scheme,
    limits: Arc<Limits>,
) -> io::Result<(Connection, Driver<I>)> {
    let io = Wire::of_server(io);
    let wire = io.state();
    let (send, mut connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(MAX_RESET_STREAMS)
        .reset_stream_duration(RESET_MEMORY)
        // Data of requests that were cancelled long ago is no fault of the server. The default ends the connection after
        // 1,024 such frames.
        .max_local_error_reset_streams(None)
        .handshake(io)
        .await
        .map_err(|error| error.into_io().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))?;
    let mut pong = connection.ping_pong();
    if let Some(ping) = &mut pong {
        let _ = ping.send_ping(Ping::opaque()); // fails if the connection has ended already
    }
    let (set_settings, has_settings) = watch::channel(false);
    let shared = Arc::new(Shared {
        limits,
        scheme,
        is_closed: AtomicBool::new(false),
        active: AtomicUsize::new(0),
        exchanges: AtomicUsize::new(0),
        freed: OnceLock::new(),
        has_settings,
    });
    let has_settings = set_settings;
    let driver = Driver { connection, wire, pong, has_settings, shared: shared.clone() };
    Ok((Connection { send, shared }, driver))
}

impl Connection {
    /// Returns whether another request may be sent: the connection is open, and the server allows one more.
    pub fn has_room(&self) -> bool {
        let most = self.send.current_max_send_streams().min(MAX_STREAMS);
        !self.is_closed() && self.active() < most
    }

    /// Returns whether the connection accepts no further request.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Ordering::Acquire)
    }

    /// Returns the number of requests in flight.
    pub fn active(&self) -> usize {
        self.shared.active.load(Ordering::Acquire)
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// A [`Deadline`](crate::peer::Deadline) in the request's extensions bounds the time to the head.
    ///
    /// A request that [asks for a WebSocket](crate::semantics::upgrade::requested) is sent as an extended CONNECT (RFC
    /// 8441), if the server's SETTINGS allow it. If the server agrees, the response is 101, as over HTTP/1.1, and
    /// [`upgrade::take_stream`](crate::conn::upgrade::take_stream) returns the stream.
    pub fn exchange(self, request: Request<Body>) -> Exchange {
        Exchange::new(self, request)
    }

    /// Makes the connection accept no further request.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for its connections"))]
impl Connection {
    /// Notifies one waiter of `freed` whenever a request has ended. The first call counts.
    pub(crate) fn notify_when_freed(&self, freed: Arc<Notify>) {
        let _ = self.shared.freed.set(freed);
    }

    /// Returns a view of the connection that does not keep it open.
    pub(crate) fn activity(&self) -> Activity {
        Activity(self.shared.clone())
    }
}

/// A view of a connection. It does not keep the connection open, as a [`Connection`] does.
#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for its connections"))]
pub(crate) struct Activity(Arc<Shared>);

#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for its connections"))]
impl Activity {
    /// Returns the number of requests in flight.
    pub(crate) fn active(&self) -> usize {
        self.0.active.load(Ordering::Acquire)
    }

    /// Returns the number of requests so far, which may wrap.
    pub(crate) fn exchanges(&self) -> usize {
        self.0.exchanges.load(Ordering::Relaxed)
    }

    /// Makes the connection accept no further request.
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
    }
}

/// Counts a request as in flight until it is dropped.
struct Active(Arc<Shared>);

impl Active {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.active.fetch_add(1, Ordering::AcqRel);
        shared.exchanges.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        if let Some(freed) = self.0.freed.get() {
            freed.notify_one();
        }
    }
}

impl<I: Io> Future for Driver<I> {
    /// The result of the connection. Each of its requests has an error of its own.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(pong) = &mut this.pong
            && pong.poll_pong(cx).is_ready()
        {
            this.pong = None;
            let _ = this.has_settings.send(true);
        }
        let result = Pin::new(&mut this.connection).poll(cx).map_err(|error| {
            error.into_io().unwrap_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))
        });
        if result.is_pending()
            && let Poll::Ready(Err(error)) = this.wire.poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        result
    }
}

impl<I: Io> Drop for Driver<I> {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

/// The cause of a failed exchange.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The connection failed, or the server closed it.
    #[error("connection to the server failed")]
    Closed(#[source] h2::Error),
    /// The server reset the request, or violated the protocol.
    #[error("server reset the request")]
    Reset(#[source] h2::Error),
    /// The server exceeded a timeout.
    #[error("server too slow")]
    Timeout,
    /// The request's [`Deadline`](crate::peer::Deadline) passed before the server had answered.
    #[error("the deadline passed before the server answered")]
    Deadline,
    /// The request cannot be sent.
    #[error("request cannot be sent")]
    Unsendable,
    /// The request asks for a WebSocket, and the server's SETTINGS do not allow extended CONNECT (RFC 8441 section 3).
    #[error("server allows no WebSocket over HTTP/2 (SETTINGS_ENABLE_CONNECT_PROTOCOL)")]
    NoExtendedConnect,
    /// The request's body failed while it was read.
    #[error("request body failed")]
    Body(#[source] BoxError),
}

impl Cause {
    fn new(error: h2::Error) -> Self {
        if error.is_io() || error.is_go_away() { Self::Closed(error) } else { Self::Reset(error) }
    }

    /// Returns whether the server reported that it did not process the request (RFC 9113 sections 6.8 and 8.7).
    fn is_unprocessed(&self) -> bool {
        match self {
            Self::Closed(error) => error.is_go_away() && error.is_remote(),
            Self::Reset(error) => {
                error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
            }
            Self::Timeout
            | Self::Deadline
            | Self::Unsendable
            | Self::NoExtendedConnect
            | Self::Body(_) => false,
        }
    }

    /// Converts to the crate's error, with its kind. An error of the request's body is returned unchanged, since it
    /// belongs to the client's connection.
    pub(crate) fn into_error(self) -> BoxError {
        let kind = match self {
            Self::Body(error) => return error,
            Self::Timeout | Self::Deadline => Kind::Timeout,
            Self::Unsendable => Kind::Internal,
            Self::Closed(_) | Self::Reset(_) | Self::NoExtendedConnect => Kind::BadGateway,
        };
        Error::new(kind, self).into()
    }
}

/// A failed exchange.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExchangeError {
    /// The cause.
    pub cause: Cause,
    /// Whether the server may have processed the request.
    pub delivery: Delivery,
    /// The original request, if its body can be [replayed](Body::replay) or was not yet read.
    pub request: Option<Box<Request<Body>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("active", &self.active())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl<I: Io> fmt::Debug for Driver<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
