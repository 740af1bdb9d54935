//! The stages before the protocol: the first bytes, the PROXY header, the TLS handshake.

pub(crate) mod proxy_header;

use std::{
    fmt::Display,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::BytesMut;

use super::{Config, Transport, per_client::ClientConnection, thread_buffers, timer::Timer};
use crate::{
    net::{
        DrainWatch, Io, clock,
        tls::{self, MaybeTls},
    },
    peer::Peer,
};

/// Minimum idle time before a connection can be shed: 250 ms, as with HTTP/1.1.
const MIN_IDLE_BEFORE_SHED: Duration = Duration::from_millis(250);

/// Time that these stages may take once the drain has started: 1 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The output of these stages: the transport for the driver, and the entry in the connection count of the client that
/// the PROXY header names.
type Prepared<I> = (Transport<MaybeTls<I>>, Option<Box<ClientConnection>>);

/// The future of these stages. `None` if the connection has ended in one of them.
pub(super) type Setup<I> = Pin<Box<dyn Future<Output = Option<Prepared<I>>> + Send>>;

/// Returns the stages that `config` enables, or the transport itself if there are none.
pub(super) fn begin<I: Io + 'static>(
    transport: Transport<I>,
    config: &Arc<Config>,
) -> Result<Transport<MaybeTls<I>>, (Setup<I>, Peer)> {
    if config.tls.is_none() && config.proxy_protocol.is_none() {
        let Transport { io, peer, read_ahead, accepted, watch } = transport;
        return Ok(Transport { io: tls::plain(io), peer, read_ahead, accepted, watch });
    }
    let peer = transport.peer.clone();
    Err((Box::pin(run(transport, config.clone())), peer))
}

async fn run<I: Io>(transport: Transport<I>, config: Arc<Config>) -> Option<Prepared<I>> {
    let Transport { mut io, mut peer, mut read_ahead, accepted, mut watch } = transport;
    // One deadline for all stages and the first head.
    let mut bound = Bound {
        watch: &mut watch,
        deadline: accepted.checked_add(config.limits.head_timeout),
        accepted,
        timer: Timer::default(),
    };
    bound.wait_for_input(&mut io, &mut read_ahead).await?;
    let mut counted = None;
    if config.proxy_protocol.is_some() {
        let from_sender = config.expects_proxy_header(&peer);
        peer = read_proxy_header(&mut bound, &mut io, &mut read_ahead, peer, &config).await?;
        if from_sender && let Some(clients) = &config.per_client {
            counted = clients.try_count(&peer).map(Box::new);
            if counted.is_none() {
                tracing::debug!(target: "vestibule::serve", %peer, "closed: the client has reached connections_per_client");
                return None;
            }
        }
    }
    let Some(tls) = &config.tls else {
        let io = tls::plain(io);
        return Some((Transport { io, peer, read_ahead, accepted, watch }, counted));
    };
    // The proxy may have opened the connection before its client has sent anything.
    bound.wait_for_input(&mut io, &mut read_ahead).await?;
    let handshake = tls.accept(io, read_ahead, config.http2.is_some());
    let error: Box<dyn Display + Send> = match bound.run(handshake).await {
        Ok(Ok((io, facts))) => {
            let (peer, read_ahead) = (peer.secured(facts), BytesMut::new());
            return Some((Transport { io, peer, read_ahead, accepted, watch }, counted));
        }
        Ok(Err(error)) => Box::new(error),
        Err(end) => Box::new(end),
    };
    tracing::debug!(target: "vestibule::tls", client = %peer, %error, "a handshake failed");
    None
}

/// Returns the peer with the addresses of its PROXY header, or `None` if the connection was refused.
async fn read_proxy_header<I: Io>(
    bound: &mut Bound<'_>,
    io: &mut I,
    input: &mut BytesMut,
    peer: Peer,
    config: &Config,
) -> Option<Peer> {
    let from_sender = config.expects_proxy_header(&peer);
    let stage = async {
        if from_sender {
            proxy_header::take(io, input).await
        } else {
            proxy_header::ensure_none(io, input).await.map(|()| None)
        }
    };
    let (error, is_late): (Box<dyn Display + Send>, bool) = match bound.run(stage).await {
        Ok(Ok(None)) => return Some(peer),
        Ok(Ok(Some(addresses))) => return Some(peer.proxied(addresses)),
        Ok(Err(error)) => (Box::new(error), false),
        Err(end) => (Box::new(end), true),
    };
    let message = "a connection was refused at its PROXY header";
    if from_sender {
        tracing::warn!(target: "vestibule::proxy_protocol", client = %peer, %error, "{message}");
    } else {
        tracing::debug!(target: "vestibule::proxy_protocol", client = %peer, %error, "{message}");
    }
    drop(error);
    if !is_late {
        let _ = bound.run(proxy_header::refuse(io, config.tls.is_some())).await;
    }
    None
}

/// The bounds of a stage: its deadline, a shutdown, and shedding while it waits for the client's first byte.
struct Bound<'a> {
    watch: &'a mut DrainWatch,
    deadline: Option<Instant>,
    accepted: Instant,
    timer: Timer,
}

/// The reason why a stage was ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client took too long")]
    TimedOut,
    #[error("the server shuts down")]
    Closed,
}

impl Bound<'_> {
    /// Waits until `input` has a byte. No buffer is allocated before. Returns `None` if the connection has ended without
    /// one, as that of a health check or a browser's preconnect.
    async fn wait_for_input<I: Io>(&mut self, io: &mut I, input: &mut BytesMut) -> Option<()> {
        if !input.is_empty() {
            return Some(());
        }
        poll_fn(|cx| match thread_buffers::poll_read(io, cx, input) {
            Poll::Ready(read) => Poll::Ready(matches!(read, Ok(1..)).then_some(())),
            Poll::Pending if self.poll_end(cx).is_ready() || self.is_shed(io) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Returns whether a connection without any input must be closed, so that another client is admitted.
    fn is_shed(&self, io: &impl Io) -> bool {
        self.watch.is_shed_requested()
            && self.accepted + MIN_IDLE_BEFORE_SHED <= clock::now()
            && io.recv_queue_empty() != Some(false) // the runtime may not have noticed the first bytes yet
            && self.watch.claim_shed()
    }

    /// Runs a stage within its bounds.
    async fn run<F: Future>(&mut self, stage: F) -> Result<F::Output, Ended> {
        let mut stage = pin!(stage);
        poll_fn(|cx| match stage.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll_end(cx).map(Err),
        })
        .await
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let now = clock::now();
        if self.watch.poll_draining(cx) {
            if self.watch.is_aborted() {
                return Poll::Ready(Ended::Closed);
            }
            let drained = now.checked_add(DRAIN_TIMEOUT);
            self.deadline = [self.deadline, drained].into_iter().flatten().min();
        }
        if self.timer.poll(cx, self.deadline, now) {
            return Poll::Ready(Ended::TimedOut);
        }
        Poll::Pending
    }
}
