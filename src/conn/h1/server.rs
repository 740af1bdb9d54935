//! The server's driver: one connection, one service, requests one after the other.

mod busy;
mod config;
mod exchange;
mod link;
mod upload;

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

pub use config::Config;

use self::{
    busy::{Phase, Stage},
    link::Link,
};
use crate::{
    body::Body,
    conn::{output::Then, timer::Timer},
    error::BoxError,
    net::{Io, Watch, clock},
    peer::Peer,
    proto::h1::Rest,
};

/// How long a connection must have been idle to make room for another: longer than a client takes
/// to send its next request as a rule, short beside the time that a client waits to be let in.
const GIVES_ROOM_AFTER: Duration = Duration::from_millis(250);

/// Serves one HTTP/1.1 connection: a future that ends with the connection.
///
/// The service's readiness is awaited when a head is complete and before its body is read, so
/// nothing is reserved for a client that we still wait for. The service's future runs inside this
/// one: when the client leaves, it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::{convert::Infallible, sync::Arc};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tower::service_fn;
/// use vestibule::{Body, Request, Response, conn::h1::server, net::Watch, peer::Peer};
///
/// let hello = service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
/// let (mut client, io) = tokio::io::duplex(1 << 10);
/// let config = Arc::new(server::Config::default());
/// tokio::spawn(server::Connection::new(io, Peer::memory(), hello, config, Watch::never()));
///
/// client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
/// let mut answer = String::new();
/// client.read_to_string(&mut answer).await.unwrap();
/// assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi"));
/// # }
/// ```
pub struct Connection<I: Io, S: Service<Request<Body>>> {
    phase: Phase,
    link: Link<I, S>,
}

impl<I, S, B> Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// A connection at its beginning. `watch` tells it when to end; [`Watch::never`] does not.
    pub fn new(io: I, peer: Peer, service: S, config: Arc<Config>, watch: Watch) -> Self {
        let link = Link { io, peer, service, config, call: None, timer: Timer::default(), watch };
        Self { phase: Phase::Resting(Rest::new(clock::now())), link }
    }
}

impl<I: Io, S: Service<Request<Body>>> Connection<I, S> {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.link.peer
    }
}

/// Nothing in it is ever pinned in place: the service's future and the body have boxes.
impl<I: Io, S: Service<Request<Body>>> Unpin for Connection<I, S> {}

impl<I, S, B> Future for Connection<I, S>
where
    I: Io,
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// An error is the connection's: the client reset it, or did not read. Requests that failed
    /// have been answered.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { phase, link } = &mut *self;
        let busy = phase.wake(&link.config.limits);
        busy.output.borrow_buffer();
        let result = link.poll_loop(busy, cx);
        if !matches!(busy.stage, Stage::Call) {
            link.call = None; // given up
        }
        if result.is_ready() {
            busy.stage = Stage::End;
            busy.upload = None;
            link.call = None;
        }
        phase.settle(&link.config.budget);
        if result.is_pending()
            && let Phase::Resting(rest) = phase
            && link.watch.wants_room()
            && rest.since() + GIVES_ROOM_AFTER <= clock::now()
            && link.watch.gives_room()
        {
            return Poll::Ready(Ok(())); // idle: somebody else has more use for the place
        }
        result
    }
}

impl<I: Io, S: Service<Request<Body>>> Drop for Connection<I, S> {
    fn drop(&mut self) {
        let Self { phase: Phase::Busy(busy), link } = self else { return };
        if !matches!(busy.stage, Stage::End) {
            // The service has panicked, or nobody drives it any more. What was gathered for the
            // requests before goes as far as it goes at once.
            let mut cx = Context::from_waker(Waker::noop());
            let rate = link.config.write_rate;
            let _ = busy.output.poll_flush(&mut link.io, &mut cx, clock::now(), rate, Then::Close);
        }
        if busy.open_ended {
            link.io.reset_on_close();
        }
    }
}

impl<I: Io, S: Service<Request<Body>>> fmt::Debug for Connection<I, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, link } = self;
        f.debug_struct("Connection").field("peer", &link.peer).field("phase", phase).finish()
    }
}
