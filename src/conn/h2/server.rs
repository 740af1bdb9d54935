//! The server's HTTP/2 driver: one connection, one service, all streams in one task.

mod admit;
mod builder;
mod closing;
mod deadlines;
mod exchange;
mod extended_connect;
mod flush;
mod queued;
pub(super) mod respond;
mod rounds;
mod streams;
mod upload;

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, server::Handshake};

use self::{
    closing::Closing,
    streams::{Load, Streams},
};
use super::{
    inbox::Inboxes,
    wakers::{CONNECTION, StreamWaker, Wakers},
    wire::{Wire, WireState},
};
use crate::{
    HttpService,
    budget::Lease,
    conn::{Config, Transport, request_log::next_connection_number, timer::Timer},
    net::{DrainWatch, GateWaiter, Io, clock},
    peer::{Peer, RequestId},
    proto::h2::Sent,
};

/// Minimum idle time before a connection can be shed: 250 ms, as with HTTP/1.1.
const MIN_IDLE_BEFORE_SHED: Duration = Duration::from_millis(250);

/// Time that the client has, after a drain has started, to acknowledge it and to close a connection without requests: 1
/// s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The driver of one HTTP/2 connection: a future that ends with the connection.
///
/// All requests run in this future, without a channel or another task between a request and its response. The
/// service's readiness is awaited when a head is complete, one request after another, and before the body is read. The
/// [gate](Config::gate) is checked before that, for each request. A request is dropped when the client resets its stream.
/// If that was the last one that waited for the service, the service is replaced with its clone, so that it keeps no
/// capacity that it has reserved.
///
/// The client must send its preface within `head_timeout`. A connection without requests is closed after the idle
/// timeout, with GOAWAY. A drain is announced by GOAWAY in two steps (RFC 9113 section 6.8), so that no request is
/// lost. After the last frame the connection is read until the client ends it, within the times of
/// [`Http2Config::linger`](crate::conn::Http2Config::linger), and does not delay a drain.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, sync::Arc};
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response, net::DrainWatch, peer::Peer};
/// use vestibule::conn::{Config, Transport, h2::server};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let (client, io) = tokio::io::duplex(1 << 10);
/// let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
/// tokio::spawn(server::Connection::new(transport, hello, Arc::new(Config::new())));
///
/// let (mut client, connection) = h2::client::handshake(client).await.unwrap();
/// tokio::spawn(connection);
/// let request = http::Request::get("http://a.example/").body(()).unwrap();
/// let (response, _) = client.send_request(request, true).unwrap();
/// assert_eq!(response.await.unwrap().status(), 200);
/// # }
/// ```
pub struct Connection<I: Io, S> {
    state: State<I>,
    wire: WireState<I>,
    /// `None` after a panic or an error of readiness: no further request is served.
    service: Option<S>,
    shared: Shared,
    last_id: RequestId,
    wakers: Wakers,
    /// The waker with which `h2` is polled.
    connection_waker: StreamWaker,
    streams: Streams,
    /// Requests that wait for the gate and the service's readiness, oldest first.
    waiting: VecDeque<usize>,
    gate: GateWaiter,
    /// Whether the first of them has passed the gate, and waits for the service's readiness.
    has_passed_gate: bool,
    /// Responses that wait for room in `h2`. The first one has its turn: it sends one piece, and is the last one then.
    waiting_for_room: VecDeque<usize>,
    load: Load,
    /// The bound of `load.working`.
    max_working: usize,
    /// The share of the budget for this data.
    lease: Option<Lease>,
    /// The empty list for the next records of written data, for reuse.
    sent: Vec<Sent>,
    timer: Timer,
    /// A lower bound of the streams' deadlines.
    next_deadline: Option<Instant>,
    /// The time since which there is no request.
    idle_since: Option<Instant>,
    /// Whether the server shuts down.
    is_draining: bool,
    /// The end of a connection without requests, since no further request is accepted.
    drain_until: Option<Instant>,
    /// The end of a connection after a flood of frames, since GOAWAY was passed to `h2`.
    flood_until: Option<Instant>,
    /// The last field, so that all others are dropped before the connection counts as ended.
    watch: DrainWatch,
}

enum State<I: Io> {
    Handshake(Handshake<Wire<I>, Bytes>, Option<Instant>),
    Open(h2::server::Connection<Wire<I>, Bytes>),
    /// All is written, and `h2` has ended.
    Closing(Closing),
}

/// The state that all requests of a connection share.
struct Shared {
    peer: Peer,
    config: Arc<Config>,
    /// The client's data of tunnels.
    inboxes: Inboxes,
    /// Maximum number of bytes of one response that `h2` holds.
    send_buffer: usize,
}

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Creates the driver of a client whose preface has not been read.
    pub fn new(transport: Transport<I>, service: S, config: Arc<Config>) -> Self {
        let Transport { io, peer, read_ahead, accepted, watch } = transport;
        let options = config.http2.clone().unwrap_or_default();
        let wire = Wire::of_client(io, read_ahead, config.write_rate, options.frames);
        let state = wire.state();
        let handshake = builder::of(&options, &config).handshake(wire);
        let max_working = builder::max_streams(&options, &config);
        let wakers = Wakers::default();
        Self {
            state: State::Handshake(handshake, accepted.checked_add(config.limits.head_timeout)),
            wire: state,
            service: Some(service),
            shared: Shared {
                peer,
                config,
                inboxes: Inboxes::default(),
                send_buffer: options.send_buffer,
            },
            last_id: RequestId::new(next_connection_number(), 0),
            connection_waker: wakers.stream(CONNECTION),
            wakers,
            streams: Streams::default(),
            waiting: VecDeque::new(),
            gate: GateWaiter::default(),
            has_passed_gate: false,
            waiting_for_room: VecDeque::new(),
            load: Load::default(),
            max_working,
            lease: None,
            sent: Vec::new(),
            timer: Timer::default(),
            next_deadline: None,
            idle_since: Some(clock::now()),
            is_draining: false,
            drain_until: None,
            flood_until: None,
            watch,
        }
    }
}

impl<I: Io, S> Connection<I, S> {
    /// Returns the client.
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }
}

/// Nothing is structurally pinned: the service's future and the body are boxed.
impl<I: Io, S> Unpin for Connection<I, S> {}

impl<I, S> Future for Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// An error of the connection: the client reset it, violated the protocol or did not read. The failure of a
    /// request is not an error of the connection.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.wakers.begin(cx);
        let result = this.poll_rounds(cx);
        this.wakers.end();
        result
    }
}

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Polls the handshake. Ready with whether the connection has ended.
    fn poll_handshake(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<bool>> {
        let State::Handshake(handshake, deadline) = &mut self.state else {
            return Poll::Ready(Ok(false));
        };
        match Pin::new(handshake).poll(cx) {
            Poll::Ready(Ok(connection)) => {
                self.state = State::Open(connection);
                if self.drain_until.take().is_some() {
                    self.refuse_requests(now);
                }
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(into_io(error))),
            Poll::Pending => {
                let deadline = [*deadline, self.drain_until].into_iter().flatten().min();
                if self.timer.poll(cx, deadline, now) {
                    Poll::Ready(Ok(true))
                } else {
                    Poll::Pending
                }
            }
        }
    }

    /// Begins a shutdown of the server, of which tunnels are told.
    fn begin_drain(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_draining, true) {
            for stream in self.streams.iter_mut() {
                stream.exchange.begin_drain();
            }
            self.refuse_requests(now);
        }
    }

    /// Announces that no further request is accepted.
    fn refuse_requests(&mut self, now: Instant) {
        if self.drain_until.is_none() {
            self.drain_until = now.checked_add(DRAIN_TIMEOUT);
            if let State::Open(connection) = &mut self.state {
                connection.graceful_shutdown();
                self.connection_waker.wake();
            }
        }
    }

    /// Returns the result of a connection that `h2` has ended.
    fn close_result(&self, error: Option<h2::Error>) -> io::Result<()> {
        if let Some(flood) = self.wire.flood() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, flood));
        }
        let Some(error) = error else { return Ok(()) };
        // The client announces the end, or closes the connection while no request is in flight.
        let is_announced = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
        if is_announced || (error.is_io() && self.streams.is_empty()) {
            return Ok(());
        }
        Err(into_io(error))
    }
}

impl<I: Io, S> Drop for Connection<I, S> {
    fn drop(&mut self) {
        for stream in self.streams.iter_mut() {
            stream.exchange.abandon(&self.shared);
        }
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<I: Io, S> fmt::Debug for Connection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", self.peer()).finish_non_exhaustive()
    }
}
