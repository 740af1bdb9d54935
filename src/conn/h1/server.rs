//! The server's HTTP/1.1 driver: one connection, one service, requests one after the other.

mod active;
mod deadlines;
mod driver;
mod exchange;
mod idle;
mod refuse;
mod respond;
mod upload;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;

use self::{
    active::{Phase, Stage},
    driver::Driver,
    idle::Idle,
};
use crate::{
    HttpService,
    conn::{
        Config, Transport,
        first_read::FirstRead,
        output::AfterFlush,
        request_log::next_connection_number,
        timer::Timer,
        tunnel::{TunnelLog, Tunneling},
    },
    net::{Io, clock},
    peer::{Peer, RequestId},
    proto::h1::IdleState,
};

/// How long a connection must have been idle before it can be shed, 250 ms: longer than a client usually
/// takes to send its next request, and short compared to the wait of a client that is not yet admitted.
const MIN_IDLE_BEFORE_SHED: Duration = Duration::from_millis(250);

/// Serves one HTTP/1.1 connection: a future that ends with the connection.
///
/// The service's readiness is awaited when a head is complete and before its body is read, so no
/// capacity is reserved while a client is still sending its head. The service's future runs inside this
/// one: it is dropped when the client disconnects.
///
/// `OPTIONS *` applies to the server as a whole (RFC 9110 section 9.3.7). The driver answers it, with the
/// methods that it passes on; the methods of a resource are up to the service. The service is not called,
/// and need not be ready.
///
/// This is the driver alone, for a stream that is known to speak HTTP/1.1.
/// [`conn::Connection`](crate::conn::Connection) begins with the stages before it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, sync::Arc};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response, net::DrainWatch, peer::Peer};
/// use vestibule::conn::{Config, Transport, h1::server};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let (mut client, io) = tokio::io::duplex(1 << 10);
/// let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
/// tokio::spawn(server::Connection::new(transport, hello, Arc::new(Config::new())));
///
/// client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"));
/// # }
/// ```
pub struct Connection<I: Io, S>(
    /// `None` once the transport has been taken out.
    Option<Inner<I, S>>,
);

struct Inner<I, S> {
    phase: Phase,
    driver: Driver<I, S>,
}

/// The stage that follows the driver.
#[expect(clippy::large_enum_variant, reason = "a connection returns one, at the end of its driver")]
pub(in crate::conn) enum NextStage<I, S> {
    /// The driver of HTTP/2. The preface is in the bytes that were read ahead.
    Http2(Transport<I>, S, Arc<Config>),
    /// The tunnel after a response of 101.
    Tunnel(Tunneling),
}

impl<I, S> Connection<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// Creates the driver of a stream at its first request.
    pub fn new(transport: Transport<I>, service: S, config: Arc<Config>) -> Self {
        let Transport { io, peer, read_ahead, accepted, watch } = transport;
        let idle = Idle::new(IdleState::new(accepted), FirstRead::default());
        let mut phase = Phase::Idle(idle);
        if !read_ahead.is_empty() {
            phase.activate(&config.limits).input = read_ahead;
        }
        let service = Some(service);
        let last_id = RequestId::new(next_connection_number(), 0);
        let timer = Timer::default();
        let driver = Driver { io, peer, last_id, service, config, timer, watch };
        Self(Some(Inner { phase, driver }))
    }

    /// Polls the driver of a stream that may begin with the preface of HTTP/2, if that is enabled and TLS has not
    /// negotiated another protocol: then the driver ends, and [`has_next_stage`](Self::has_next_stage).
    pub(in crate::conn) fn poll_detecting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_driver(cx, true)
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>, detects_http2: bool) -> Poll<io::Result<()>> {
        let inner = self.0.as_mut().expect("the transport is taken out only by value");
        let Inner { phase, driver } = inner;
        let active = phase.activate(&driver.config.limits);
        // Before the first request only. An argument, since an idle connection has no room for it.
        active.detects_http2 = detects_http2
            && driver.last_id.request() == 0
            && driver.config.http2.is_some()
            && driver.peer.tls().is_none();
        active.output.borrow_buffer();
        let result = driver.poll_loop(active, cx);
        let has_next_stage = matches!(active.stage, Stage::Http2 | Stage::Switch(_));
        if result.is_ready() && !(has_next_stage && matches!(result, Poll::Ready(Ok(())))) {
            active.stage = Stage::End; // drops the service's future
            active.upload = None;
            active.transfers.abort(&driver.config.access_log);
        }
        phase.try_idle(&driver.config.budget);
        if result.is_pending()
            && let Phase::Idle(idle) = phase
            && driver.watch.is_shed_requested()
            && idle.core().since() + MIN_IDLE_BEFORE_SHED <= clock::now()
            && driver.io.recv_queue_empty() != Some(false) // the runtime may not have noticed a request yet
            && driver.watch.claim_shed()
        {
            return Poll::Ready(Ok(())); // idle: closed so that another client is admitted
        }
        result
    }
}

impl<I: Io, S> Connection<I, S> {
    /// Returns the client.
    pub fn peer(&self) -> &Peer {
        &self.inner().driver.peer
    }

    /// Returns the transport, with bytes that were read and not used: after an upgrade, those of the next
    /// protocol.
    ///
    /// An exchange in progress is dropped, and so is response data that was not yet written.
    pub fn into_parts(mut self) -> Transport<I> {
        let Inner { phase, driver } = self.0.take().expect("taken once, by value");
        let (read_ahead, accepted) = match phase {
            Phase::Idle(idle) => (BytesMut::new(), idle.core().since()),
            Phase::Active(mut active) => {
                active.transfers.abort(&driver.config.access_log);
                let idle = active.core.idle_state();
                (active.input, idle.map_or_else(clock::now, |idle| idle.since()))
            }
        };
        let Driver { io, peer, watch, .. } = driver;
        Transport { io, peer, read_ahead, accepted, watch }
    }

    /// Returns whether the driver has ended and another stage follows: the client has sent the preface of HTTP/2, or a
    /// response of 101 was sent.
    pub(in crate::conn) fn has_next_stage(&self) -> bool {
        let phase = self.0.as_ref().map(|inner| &inner.phase);
        let Some(Phase::Active(active)) = phase else { return false };
        matches!(active.stage, Stage::Http2 | Stage::Switch(_))
    }

    /// Returns the stage that follows the driver, if there is one.
    pub(in crate::conn) fn into_next_stage(mut self) -> Option<NextStage<I, S>>
    where
        I: 'static,
    {
        let Inner { phase, driver } = self.0.as_mut()?;
        let Phase::Active(active) = phase else { return None };
        let config = driver.config.clone();
        if matches!(active.stage, Stage::Http2) {
            let service = driver.service.take()?;
            return Some(NextStage::Http2(self.into_parts(), service, config));
        }
        let Stage::Switch(switch) = std::mem::replace(&mut active.stage, Stage::End) else {
            return None;
        };
        let log =
            TunnelLog { entry: active.transfers.take_open_entry(), log: config.access_log.clone() };
        let Transport { io, peer, read_ahead, watch, .. } = self.into_parts();
        let (takeover, body) = *switch;
        let tunnel = takeover.begin(io, read_ahead, body)?;
        Some(NextStage::Tunnel(Tunneling::new(tunnel, log, peer, watch)))
    }

    fn inner(&self) -> &Inner<I, S> {
        self.0.as_ref().expect("the transport is taken out only by value")
    }
}

/// Nothing is structurally pinned: the service's future and the body are boxed.
impl<I: Io, S> Unpin for Connection<I, S> {}

impl<I, S> Future for Connection<I, S>
where
    I: Io,
    S: HttpService,
    S::Future: Send + 'static,
{
    /// An error of the connection: the client reset it, or did not read. A failed request is no error
    /// here: it has been answered.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_driver(cx, false)
    }
}

impl<I: Io, S> Drop for Connection<I, S> {
    fn drop(&mut self) {
        let Some(Inner { phase: Phase::Active(active), driver }) = &mut self.0 else { return };
        if !matches!(active.stage, Stage::End) {
            // The task was dropped, or a destructor has panicked. Queued responses to earlier requests are
            // written as far as the socket takes them at once.
            let mut cx = Context::from_waker(Waker::noop());
            let rate = driver.config.write_rate;
            let output = &mut active.output;
            let _ =
                output.poll_flush(&mut driver.io, &mut cx, clock::now(), rate, AfterFlush::Close);
            active.transfers.advance(output.written(), &driver.config.access_log);
        }
        active.transfers.abort(&driver.config.access_log);
        if active.is_close_delimited {
            driver.io.reset_on_close();
        }
    }
}

impl<I: Io, S> fmt::Debug for Connection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { phase, driver } = self.inner();
        f.debug_struct("Connection").field("peer", &driver.peer).field("phase", phase).finish()
    }
}
