//! `TcpBalance`: forwards whole connections, of any protocol, to one of several servers.

mod builder;
mod pipe;
mod serve;
mod target;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::Request;
use tokio::{io::AsyncWriteExt, sync::Semaphore};
use tower_service::Service;

use self::{
    pipe::Transfer,
    target::{Connected, Connecting, Template},
};
use super::{
    Balance, Retry,
    discover::{Discover, FollowOptions},
};
use crate::{
    body::Body,
    conn::{
        ProxyProtocol,
        relay::{Limits, Relay},
        setup::proxy_header,
    },
    error::BoxError,
    net::{DrainWatch, Io, Stream},
    peer::{Peer, ProxyAddresses},
    policy::pick::Pick,
    proto::proxy,
};

pub use crate::conn::relay::End;
pub use builder::{
    MAX_CONNECTIONS, PROXY_HEADER_TIMEOUT, TCP_IDLE_TIMEOUT, TCP_TOTAL_CONNECT_TIMEOUT,
    TcpBalanceBuilder,
};
pub use target::TcpTarget;

/// Forwards whole connections to one of several servers: a load balancer for databases, caches, mail, or TLS that the
/// servers terminate.
///
/// - A [policy](crate::policy::pick) picks the server, as for requests, with the same health: a server that cannot be
///   reached is ejected, and the connection goes to another. The policy can use the client's [`Peer`], which is in
///   the extensions of the request that it gets.
/// - [`check`](super::check::connects) checks the servers actively, and [`follow`](Self::follow) follows a source of
///   them.
/// - Bytes are moved by splice(2), without a copy in user space. The end of one direction is passed on, and the other
///   direction continues. If the connection to one side breaks, the one to the other is reset, so that its peer does
///   not take it for complete. If it is complete in that direction, it is closed when the peer has taken all bytes.
/// - The client's address passes through by the PROXY protocol: [read](TcpBalanceBuilder::read_proxy_protocol) from
///   trusted senders, and [sent](TcpBalanceBuilder::proxy_protocol) to servers.
/// - A connection that has no server after [`TCP_TOTAL_CONNECT_TIMEOUT`] is reset, and one without traffic after
///   [`TCP_IDLE_TIMEOUT`].
/// - At most [`MAX_CONNECTIONS`] connections are forwarded; others are closed at once.
///
/// Cheap to clone: clones share servers, limits and figures.
///
/// ```no_run
/// use vestibule::{net::{Drain, Listener}, upstream::TcpBalance};
///
/// # async fn run() -> std::io::Result<()> {
/// let redis = TcpBalance::builder(["10.0.0.1:6379", "10.0.0.2:6379"]).build()?;
/// let listener = Listener::bind(&"127.0.0.1:6379".parse()?, false)?;
/// let drain = Drain::new(); // `drain.begin()` stops it, `drain.ended().await` waits
/// redis.serve(listener, &drain).await
/// # }
/// ```
#[derive(Clone)]
pub struct TcpBalance(Arc<Shared>);

type Targets = Retry<Balance<TcpTarget, Arc<dyn Pick>>>;

struct Shared {
    targets: Targets,
    template: Template,
    limits: Limits,
    proxy_protocol: Option<proxy::Version>,
    senders: Option<ProxyProtocol>,
    permits: Arc<Semaphore>,
    max_connections: usize,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The figures of a [`TcpBalance`] since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TcpStats {
    /// Connections that are being forwarded or wait for a server.
    pub active: usize,
    /// Accepted connections.
    pub accepted: u64,
    /// Connections that were closed at once because of [`MAX_CONNECTIONS`].
    pub refused: u64,
    /// Connections for which no server was found.
    pub failed: u64,
    /// Bytes from clients to servers, of connections that have ended.
    pub sent: u64,
    /// Bytes from servers to clients, of connections that have ended.
    pub received: u64,
}

/// The end of a forwarded connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Transferred {
    /// Bytes from the client to the server.
    pub sent: u64,
    /// Bytes from the server to the client.
    pub received: u64,
    /// The reason of its end.
    pub end: End,
}

/// A connection was not forwarded. It has been closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The maximum number of connections is active.
    #[error("the maximum of {0} connections is active")]
    TooMany(usize),
    /// No connection to a server could be made.
    #[error("cannot connect to any server")]
    NoServer(#[source] BoxError),
    /// A trusted sender sent no valid PROXY header, or not in time.
    #[error("trusted sender sent no valid PROXY header")]
    NoProxyHeader(#[source] BoxError),
    /// The server closed the connection before it had read the PROXY header.
    #[error("cannot send the PROXY header: does the server expect it?")]
    ProxyHeader(#[source] io::Error),
}

impl TcpBalance {
    /// Returns a builder for these servers, `host:port` or `unix:/path`.
    pub fn builder<A: AsRef<str>>(servers: impl IntoIterator<Item = A>) -> TcpBalanceBuilder {
        TcpBalanceBuilder::new(servers)
    }

    /// Returns the balancer of its servers, with their load and health.
    pub fn balance(&self) -> &Balance<TcpTarget, Arc<dyn Pick>> {
        self.0.targets.get_ref()
    }

    /// Follows a source of servers: see [`Balance::follow`]. New servers have the options of this balancer; the protocol
    /// of a [`Target`](super::discover::Target) is ignored. Spawn the future as a task.
    pub fn follow<D: Discover + 'static>(
        &self,
        source: D,
    ) -> impl Future<Output = ()> + Send + use<D> {
        self.follow_with(source, FollowOptions::new())
    }

    /// Follows a source of servers, with options.
    pub fn follow_with<D: Discover + 'static>(
        &self,
        source: D,
        options: FollowOptions,
    ) -> impl Future<Output = ()> + Send + use<D> {
        let template = self.0.template;
        self.balance().follow(source, options, move |target| {
            template.endpoint(target.key(), target.address.address().clone())
        })
    }

    /// Returns the figures.
    pub fn stats(&self) -> TcpStats {
        let Counts { accepted, refused, failed, sent, received } = &self.0.counts;
        TcpStats {
            active: self.0.max_connections - self.0.permits.available_permits(),
            accepted: accepted.load(Relaxed),
            refused: refused.load(Relaxed),
            failed: failed.load(Relaxed),
            sent: sent.load(Relaxed),
            received: received.load(Relaxed),
        }
    }

    /// Forwards the connection of a client until it ends or `watch` aborts it. `read_ahead` are bytes that were
    /// already read from the client; they are sent first.
    ///
    /// While it waits for a server, an abort or a failure of the client's connection, such as a reset, ends it. Over TCP, a
    /// client that has closed its connection looks like one that has ended its sending half and still reads. If it has
    /// sent bytes before, they are forwarded, since it may read an answer. If it has sent none, it leaves the queue. It
    /// keeps a server that is free, or being connected to: it may read what that sends.
    ///
    /// # Errors
    /// [`TcpError`] if there is no server for it.
    pub async fn forward(
        &self,
        mut client: Stream,
        peer: &Peer,
        read_ahead: &[u8],
        mut watch: DrainWatch,
    ) -> Result<Transferred, TcpError> {
        let shared = &*self.0;
        let Ok(_permit) = shared.permits.try_acquire() else {
            shared.counts.refused.fetch_add(1, Relaxed);
            client.reset_on_close();
            return Err(TcpError::TooMany(shared.max_connections));
        };
        shared.counts.accepted.fetch_add(1, Relaxed);
        let mut received = BytesMut::from(read_ahead);
        let named = tokio::select! {
            biased;
            () = aborted(&mut watch) => return Ok(not_opened(client, End::Aborted)),
            named = self.read_header(&mut client, peer, &mut received) => named,
        };
        let peer = &named.map_err(TcpError::NoProxyHeader).inspect_err(|_| self.count_failed())?;
        let connecting = Connecting::default();
        let opened = tokio::select! {
            biased;
            () = aborted(&mut watch) => return Ok(not_opened(client, End::Aborted)),
            error = client.wait_for_error() => return Ok(not_opened(client, End::Client(error))),
            // Polled before the next one, so that a free server is seen first.
            opened = self.open(peer, &received, &connecting) => opened,
            () = wait_for_close_in_queue(&client, &connecting), if received.is_empty() => {
                let error = io::ErrorKind::UnexpectedEof.into();
                return Ok(not_opened(client, End::Client(error)));
            }
        };
        let opened = opened.inspect_err(|_| client.reset_on_close());
        // The guard counts the connection at its endpoint.
        let (Connected { stream: server, guard: _guard }, rest) = opened?;
        let early = received.len().saturating_sub(rest.len()) as u64;
        let mut relay = Relay::<_, Transfer>::new(client, server, shared.limits);
        if !rest.is_empty() {
            relay = relay.send_first(rest.into());
        }
        let end = tokio::select! {
            biased;
            end = poll_fn(|cx| relay.poll(cx)) => end,
            () = aborted(&mut watch) => End::Aborted,
        };
        let (sent, received) = relay.finish(&end);
        let sent = sent + early;
        shared.counts.sent.fetch_add(sent, Relaxed);
        shared.counts.received.fetch_add(received, Relaxed);
        Ok(Transferred { sent, received, end })
    }

    /// Reads the PROXY header of a trusted sender from the front of the connection. Returns the client that it names;
    /// `received` has what came behind it.
    async fn read_header(
        &self,
        client: &mut Stream,
        peer: &Peer,
        received: &mut BytesMut,
    ) -> Result<Peer, BoxError> {
        if !self.0.senders.as_ref().is_some_and(|senders| senders.is_trusted(peer)) {
            return Ok(peer.clone());
        }
        let read = proxy_header::take(client, received);
        let named = tokio::time::timeout(PROXY_HEADER_TIMEOUT, read).await??;
        Ok(named.map_or_else(|| peer.clone(), |addresses| peer.clone().proxied(addresses)))
    }

    /// Connects to a server, and sends it the PROXY header and what fits of `received`. Returns the rest, with which the
    /// relay waits for a server that does not read.
    async fn open(
        &self,
        peer: &Peer,
        received: &[u8],
        connecting: &Connecting,
    ) -> Result<(Connected, BytesMut), TcpError> {
        let connected = self.connect(peer, connecting).await;
        let mut connected = connected.inspect_err(|_| self.count_failed())?;
        let mut first = BytesMut::new();
        if let Some(version) = self.0.proxy_protocol {
            proxy::encode(version, addresses(peer).as_ref(), &mut first);
        }
        first.extend_from_slice(received);
        if !first.is_empty() {
            // A new connection takes the header at least, without a wait.
            let n = connected.stream.write(&first).await.map_err(TcpError::ProxyHeader)?;
            first.advance(n);
        }
        Ok((connected, first))
    }

    fn count_failed(&self) {
        self.0.counts.failed.fetch_add(1, Relaxed);
    }

    /// Connects to the server that the policy picks, or to another if that fails.
    async fn connect(&self, peer: &Peer, connecting: &Connecting) -> Result<Connected, TcpError> {
        let mut targets = self.0.targets.clone();
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(connecting.clone());
        let ready = poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut targets, cx)).await;
        ready.map_err(TcpError::NoServer)?;
        let response = targets.call(request).await.map_err(TcpError::NoServer)?;
        Connected::from_response(response).map_err(TcpError::NoServer)
    }
}

/// Resets a connection that ended before it had a server.
fn not_opened(mut client: Stream, end: End) -> Transferred {
    client.reset_on_close();
    Transferred { sent: 0, received: 0, end }
}

/// Waits until the client has ended its sending half in the queue. Does not end once a server is being connected to.
async fn wait_for_close_in_queue(client: &Stream, connecting: &Connecting) {
    client.wait_for_eof().await;
    if connecting.is_set() {
        pending().await
    }
}

/// Waits until the drain aborts its connections.
async fn aborted(watch: &mut DrainWatch) {
    poll_fn(|cx| {
        // Registered for the abort, too.
        if watch.poll_draining(cx) && watch.is_aborted() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Returns the addresses for the PROXY header: the client that a trusted proxy has named, or that of the socket.
fn addresses(peer: &Peer) -> Option<ProxyAddresses> {
    if let Some(proxied) = peer.proxy_addresses() {
        return Some(*proxied);
    }
    Some(ProxyAddresses { client: peer.remote_addr()?, destination: peer.local_addr()? })
}

/// Default timeout of connecting: 5 s.
const CONNECT_TIMEOUT: Duration = super::CONNECT_TIMEOUT;

impl fmt::Debug for TcpBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpBalance")
            .field("balance", self.balance())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
