//! `Connection`: a server's connection, from accept to its end.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    Config, Transport,
    h1::{self, server::NextStage},
    h2,
    per_client::ClientConnection,
    setup::{self, Setup},
    tunnel::Tunneling,
};
use crate::{
    HttpService,
    net::{Io, tls::MaybeTls},
    peer::Peer,
};

/// Serves one connection: a future that ends with it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, sync::Arc};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response};
/// use vestibule::{conn::{Config, Connection, Transport}, net::DrainWatch, peer::Peer};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let (mut client, io) = tokio::io::duplex(1 << 10);
/// let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
/// tokio::spawn(Connection::new(transport, hello, Arc::new(Config::new())));
///
/// client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"));
/// # }
/// ```
pub struct Connection<I: Io, S> {
    stage: Stage<I, S>,
    /// Its entry in the client's count, if there is a limit. Held to the end of the connection.
    counted: Option<Box<ClientConnection>>,
}

/// The current stage, which owns the transport until it passes it to the next.
enum Stage<I: Io, S> {
    Setup {
        setup: Setup<I>,
        peer: Peer,
        service: S,
        config: Arc<Config>,
    },
    Http1(h1::server::Connection<MaybeTls<I>, S>),
    /// Boxed, since it is larger than a connection of HTTP/1.1.
    Http2(Box<h2::server::Connection<MaybeTls<I>, S>>),
    /// After a response of 101.
    Tunnel(Box<Tunneling>),
    Ended(Peer),
}

impl<I, S> Connection<I, S>
where
    I: Io + 'static,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Creates a connection in the first stage that `config` enables.
    pub fn new(transport: Transport<I>, service: S, config: Arc<Config>) -> Self {
        let stage = match setup::begin(transport, &config) {
            Ok(transport) => Stage::driver(transport, service, config),
            Err((setup, peer)) => Stage::Setup { setup, peer, service, config },
        };
        Self { stage, counted: None }
    }

    /// Holds the entry in the client's count.
    pub(crate) fn counted(self, counted: Option<Box<ClientConnection>>) -> Self {
        Self { counted, ..self }
    }
}

impl<I, S> Stage<I, S>
where
    I: Io + 'static,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// Chooses the protocol, and creates its driver: that which TLS has negotiated. Without TLS HTTP/1.1 begins,
    /// and ends at once if the client begins with the preface of HTTP/2.
    fn driver(transport: Transport<MaybeTls<I>>, service: S, config: Arc<Config>) -> Self {
        if config.http2.is_none() {
            return Self::Http1(h1::server::Connection::new(transport, service, config));
        }
        if transport.peer.tls().is_some_and(|facts| facts.alpn() == Some(b"h2")) {
            return Self::Http2(Box::new(h2::server::Connection::new(transport, service, config)));
        }
        Self::Http1(h1::server::Connection::new(transport, service, config))
    }
}

impl<I: Io, S> Connection<I, S> {
    /// Returns the client, as far as it is known at this stage.
    pub fn peer(&self) -> &Peer {
        match &self.stage {
            Stage::Setup { peer, .. } | Stage::Ended(peer) => peer,
            Stage::Http1(connection) => connection.peer(),
            Stage::Http2(connection) => connection.peer(),
            Stage::Tunnel(tunnel) => tunnel.peer(),
        }
    }
}

impl<I, S> Future for Connection<I, S>
where
    I: Io + 'static,
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    /// An error of the connection: the client reset it, or did not read. A failed request is no error
    /// here: it has been answered. Nor is a failed handshake, which is logged.
    ///
    /// A panic of the service, in its readiness, its call, its future or the body of its response, is
    /// caught and logged. The request is answered 500, or its response is aborted if that has begun.
    /// Over HTTP/1.1 the connection is closed then, and the service dropped. Over HTTP/2 the stream ends, and the
    /// connection continues; after a panic in the service's readiness or call the service is dropped, and the
    /// connection ends after the requests in flight.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let transport = match &mut self.stage {
                Stage::Setup { setup, .. } => ready!(setup.as_mut().poll(cx)),
                Stage::Http1(connection) => {
                    let result = ready!(connection.poll_detecting(cx));
                    if !connection.has_next_stage() {
                        return Poll::Ready(result);
                    }
                    None
                }
                Stage::Tunnel(tunnel) => return Pin::new(tunnel).poll(cx),
                Stage::Http2(connection) => return Pin::new(connection).poll(cx),
                Stage::Ended(_) => return Poll::Ready(Ok(())),
            };
            let ended = Stage::Ended(self.peer().clone());
            match (std::mem::replace(&mut self.stage, ended), transport) {
                (Stage::Setup { service, config, .. }, Some((transport, counted))) => {
                    self.stage = Stage::driver(transport, service, config);
                    if counted.is_some() {
                        self.counted = counted;
                    }
                }
                (Stage::Http1(connection), _) => match connection.into_next_stage() {
                    Some(NextStage::Tunnel(tunnel)) => self.stage = Stage::Tunnel(Box::new(tunnel)),
                    Some(NextStage::Http2(transport, service, config)) => {
                        let connection = h2::server::Connection::new(transport, service, config);
                        self.stage = Stage::Http2(Box::new(connection));
                    }
                    None => {}
                },
                (Stage::Setup { .. } | Stage::Http2(_) | Stage::Tunnel(_) | Stage::Ended(_), _) => {
                }
            }
        }
    }
}

/// Nothing is structurally pinned: the service's future and the body are boxed.
impl<I: Io, S> Unpin for Connection<I, S> {}

impl<I: Io, S> fmt::Debug for Connection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("peer", self.peer()).finish_non_exhaustive()
    }
}
