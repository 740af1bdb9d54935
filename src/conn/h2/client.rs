//! The client's HTTP/2 driver: one connection that many requests share.

mod cause;
mod exchange;
mod incoming;
mod request;
mod upload;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
};
use http::{Request, uri::Scheme};
use tokio::sync::{Notify, watch};

use self::upload::UploadRoom;
use super::{
    inbox::Inboxes,
    wire::{Wire, WireState},
};
use crate::{
    Budget,
    body::Body,
    net::{Io, process_budget},
    proto::h1::Limits,
};

pub use self::{
    cause::{Cause, ExchangeError},
    exchange::Exchange,
};

/// The flow-control window of one response: 256 KiB. With a round trip of 50 ms that is 5 MiB/s.
const STREAM_WINDOW: u32 = 256 << 10;

/// The flow-control window of all responses of a connection together: that of all requests, 250 MiB. Responses whose
/// clients do not read must not stop those of other clients.
const CONNECTION_WINDOW: u32 = 1_000 * STREAM_WINDOW;

/// Bytes that DATA frames of less than 256 bytes may take in `h2` beside their content: 64 MiB, for 260,000 frames of a
/// byte, as many as the window of one response admits. The driver takes the data of responses whose heads were returned
/// out of `h2`. That of others waits there until its [`Exchange`] is polled, and `h2` ends the connection beyond.
const DATA_FRAME_BUDGET: usize = 64 << 20;

/// Time in which the server may still send data of a request that was cancelled: 10 s.
const RESET_MEMORY: Duration = Duration::from_secs(10);

/// Bytes of one request's body that may be queued for the connection: 256 KiB.
const SEND_BUFFER: usize = 256 << 10;

/// Maximum number of requests in flight on one connection: 1,000, even if the server allows more.
const MAX_STREAMS: usize = 1_000;

/// The same before the server's SETTINGS are known, for `h2`: 100, the least that RFC 9113 section 6.5.2 recommends to
/// servers. All but the first wait for the SETTINGS, since a server refuses requests above its own limit.
const INITIAL_STREAMS: usize = 100;

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
    /// The data of responses.
    inboxes: Inboxes,
    /// The room for data of requests.
    room: UploadRoom,
    is_closed: AtomicBool,
    /// Requests in flight.
    active: AtomicUsize,
    /// Notified when a request has ended, and when the SETTINGS have been received.
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
    budget: Budget,
    /// The task of the last poll.
    task: Option<Waker>,
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
        .initial_max_send_streams(INITIAL_STREAMS)
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
        inboxes: Inboxes::default(),
        room: UploadRoom::default(),
        is_closed: AtomicBool::new(false),
        active: AtomicUsize::new(0),
        freed: OnceLock::new(),
        has_settings,
    });
    let has_settings = set_settings;
    let connection_handle = Connection { send, shared: shared.clone() };
    let budget = process_budget();
    let task = None;
    Ok((connection_handle, Driver { connection, wire, pong, has_settings, shared, budget, task }))
}

impl Connection {
    /// Returns whether another request may be sent: the connection is open, and the server allows one more. Until its
    /// SETTINGS have been received, it allows one at a time.
    pub fn has_room(&self) -> bool {
        let most = if self.has_settings() {
            self.send.current_max_send_streams().min(MAX_STREAMS)
        } else {
            1
        };
        !self.is_closed() && self.active() < most
    }

    /// Returns whether the server's SETTINGS have been received.
    pub(crate) fn has_settings(&self) -> bool {
        *self.shared.has_settings.borrow()
    }

    /// Waits for the server's SETTINGS. Does not keep the connection open.
    ///
    /// # Errors
    /// The connection has ended without them, or they have not come within `timeout`.
    pub(crate) fn settings(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let mut has_settings = self.shared.has_settings.clone();
        async move {
            match tokio::time::timeout(timeout, has_settings.wait_for(|has| *has)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(io::ErrorKind::ConnectionAborted.into()),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
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
        self.reserve().exchange(request)
    }

    /// Counts a request as in flight before it is sent, so that [`has_room`](Self::has_room) is right for the next one.
    pub(crate) fn reserve(self) -> ReservedStream {
        let active = Active::new(&self.shared);
        ReservedStream { connection: self, active }
    }

    /// Makes the connection accept no further request.
    pub fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }
}

#[cfg_attr(not(feature = "upstream"), allow(dead_code, reason = "for its connections"))]
impl Connection {
    /// Notifies one waiter of `freed` whenever a request has ended, and all of them when the server's SETTINGS have been
    /// received. The first call counts.
    pub(crate) fn notify_when_freed(&self, freed: Arc<Notify>) {
        let _ = self.shared.freed.set(freed);
    }

    /// Returns a view of the connection that does not keep it open.
    pub(crate) fn activity(&self) -> Activity {
        Activity(self.shared.clone())
    }
}

/// A connection with a stream for one request, which counts as in flight until it is dropped.
pub(crate) struct ReservedStream {
    connection: Connection,
    active: Active,
}

impl ReservedStream {
    /// Does the same as [`Connection::exchange`].
    pub(crate) fn exchange(self, request: Request<Body>) -> Exchange {
        Exchange::new(self, request)
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

    /// Returns whether this is a view of `connection`.
    pub(crate) fn is_of(&self, connection: &Connection) -> bool {
        Arc::ptr_eq(&self.0, &connection.shared)
    }

    /// Makes the connection accept no further request.
    pub(crate) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
    }
}

/// Counts a request as in flight until it is dropped.
struct Active {
    shared: Arc<Shared>,
    /// Whether no other request was in flight when this one began.
    is_alone: bool,
}

impl Active {
    fn new(shared: &Arc<Shared>) -> Self {
        let is_alone = shared.active.fetch_add(1, Ordering::AcqRel) == 0;
        Self { shared: shared.clone(), is_alone }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.shared.active.fetch_sub(1, Ordering::AcqRel);
        if let Some(freed) = self.shared.freed.get() {
            freed.notify_one();
        }
    }
}

impl<I: Io> Driver<I> {
    /// Sets the budget in which data counts that was received and is not read: at most 256 KiB of a response. Default:
    /// [`process_budget`].
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }
}

impl<I: Io> Future for Driver<I> {
    /// The result of the connection. Each of its requests has an error of its own.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.task = Some(cx.waker().clone());
            this.shared.room.set_driver(cx.waker());
        }
        if this.wire.resume_reads() {
            this.shared.inboxes.receive(&this.budget);
        }
        let result = Pin::new(&mut this.connection).poll(cx).map_err(|error| {
            error.into_io().unwrap_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))
        });
        // After the read, since the connection may have ended with it.
        if let Some(pong) = &mut this.pong
            && pong.poll_pong(cx).is_ready()
        {
            this.pong = None;
            let _ = this.has_settings.send(true);
            if let Some(freed) = this.shared.freed.get() {
                freed.notify_waiters();
            }
        }
        if result.is_pending() {
            let is_flushed = match this.wire.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                flushed => flushed.is_ready(),
            };
            let (bytes, is_blocked) = this.wire.take_written();
            if this.shared.room.is_used() {
                this.shared.room.record_written(bytes, is_flushed && !is_blocked);
            }
        }
        result
    }
}

impl<I: Io> Drop for Driver<I> {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::Release);
    }
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
