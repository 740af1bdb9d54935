//! Tests of the stages of a connection: what one passes to the next, and what a driver returns.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use http::uri::Scheme;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::oneshot,
    time::Instant,
};
use tower::{Layer, service_fn};

use crate::{
    Body, Budget, HttpService, Request, Response,
    conn::{
        Config, Connection, Http1Config, Transport,
        h1::{client, server},
        upgrade,
    },
    layer::RescueLayer,
    net::{Drain, DrainWatch, Gate},
    peer::{MinRate, Peer, Tls},
    proto::h1::Limits,
    serve::{Serve, serve},
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

fn transport() -> (DuplexStream, Transport<DuplexStream>) {
    let (client, io) = tokio::io::duplex(1 << 10);
    (client, Transport::new(io, Peer::memory(), DrainWatch::never()))
}

/// A service that responds with the request's path.
fn path() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    service_fn(async |request: Request| {
        Ok::<_, Infallible>(Response::new(Body::from(request.uri().path().to_owned())))
    })
}

#[tokio::test]
async fn connection_serves_requests_that_an_earlier_stage_read_ahead() {
    let (mut client, mut transport) = transport();
    transport.read_ahead.extend_from_slice(&GET[..10]);
    client.write_all(&GET[10..]).await.unwrap();
    client.shutdown().await.unwrap();
    Connection::new(transport, path(), Arc::default()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\n/a"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn head_deadline_counts_from_accept_over_all_stages() {
    let (mut client, transport) = transport();
    let began = Instant::now();
    // A stage before the driver takes 15 of the 20 seconds.
    tokio::time::advance(Duration::from_secs(15)).await;
    tokio::spawn(Connection::new(transport, path(), Arc::default()));
    client.write_all(&GET[..10]).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(began.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn driver_returns_its_transport_with_the_bytes_read_ahead() {
    let drain = Drain::new();
    let (mut client, mut transport) = transport();
    transport.watch = drain.watch();
    let mut connection = server::Connection::new(transport, path(), Arc::default());
    client.write_all(&[GET, &GET[..12]].concat()).await.unwrap();
    poll_fn(|cx| {
        assert!(Pin::new(&mut connection).poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    let Transport { mut io, read_ahead, peer, .. } = connection.into_parts();
    assert_eq!((&read_ahead[..], peer), (&GET[..12], Peer::memory()));
    // The response was sent, and the stream is still usable.
    io.write_all(b"next protocol").await.unwrap();
    drop(io);
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert!(received.ends_with("\r\n\r\n/anext protocol"), "{received}");
    assert!(drain.is_empty(), "the watch was dropped with the rest");
}

#[tokio::test]
async fn idle_driver_returns_its_transport() {
    let (_client, transport) = transport();
    let accepted = transport.accepted;
    let connection = server::Connection::new(transport, path(), Arc::default());
    let transport = connection.into_parts();
    assert!(transport.read_ahead.is_empty());
    assert_eq!(transport.accepted, accepted);
}

/// Passes the connection to the test when its exchange is complete.
struct Return(oneshot::Sender<client::Connection<DuplexStream>>);

impl crate::conn::Checkin<client::Connection<DuplexStream>> for Return {
    fn checkin(self, connection: client::Connection<DuplexStream>, _: std::time::Instant) {
        self.0.send(connection).unwrap();
    }
}

#[tokio::test]
async fn client_driver_returns_its_stream_with_the_bytes_read_ahead() {
    for early in ["", "early"] {
        let (mut server, io) = tokio::io::duplex(1 << 10);
        let (back, returned) = oneshot::channel();
        let connection = client::Connection::new(io, Arc::default());
        let request = Request::get("/").header("host", "a").body(Body::empty()).unwrap();
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        connection.exchange(request, Return(back)).await.unwrap();
        let mut connection = returned.await.unwrap();
        server.write_all(early.as_bytes()).await.unwrap();
        let is_usable = poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await;
        assert_eq!(is_usable, early.is_empty());
        let mut parts = connection.into_parts();
        assert_eq!(parts.read_ahead, early);
        parts.io.write_all(b"next protocol").await.unwrap();
        drop(parts);
        let mut received = String::new();
        server.read_to_string(&mut received).await.unwrap();
        assert!(received.ends_with("\r\n\r\nnext protocol"), "{received}");
    }
}

#[tokio::test]
async fn stream_of_a_client_after_101_begins_with_the_bytes_after_the_response() {
    let (mut server, io) = tokio::io::duplex(1 << 10);
    let (back, _returned) = oneshot::channel();
    let request = Request::get("/")
        .header("host", "a")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Body::empty())
        .unwrap();
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    server.write_all(format!("{head}read ahead, ").as_bytes()).await.unwrap();
    let connection = client::Connection::new(io, Arc::default());
    let mut response = connection.exchange(request, Return(back)).await.unwrap();
    let mut stream = upgrade::take_stream(&mut response).unwrap();
    assert!(upgrade::take_stream(&mut response).is_none(), "it was taken");
    server.write_all(b"and then the rest").await.unwrap();
    let mut received = [0; 29];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"read ahead, and then the rest");
    stream.write_all(b"next protocol").await.unwrap();
    drop(stream);
    let mut sent = String::new();
    server.read_to_string(&mut sent).await.unwrap();
    assert!(sent.ends_with("\r\n\r\nnext protocol"), "{sent}");
}

#[tokio::test]
async fn scheme_of_the_peer_reaches_service_and_log() {
    let schemes = Arc::new(Mutex::new(Vec::new()));
    let (logged, seen) = (schemes.clone(), schemes.clone());
    let scheme_of = |peer: Option<&Peer>| peer.expect("a peer").scheme();
    let service = service_fn(move |request: Request| {
        seen.lock().unwrap().push(scheme_of(request.extensions().get()));
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let (mut client, mut transport) = transport();
    transport.peer = transport.peer.secured(Tls::new("TLSv1.3"));
    client.write_all(GET).await.unwrap();
    client.shutdown().await.unwrap();
    let config = Config::new().access_log(move |entry| {
        logged.lock().unwrap().push(entry.peer.scheme());
    });
    Connection::new(transport, service, Arc::new(config)).await.unwrap();
    assert_eq!(*schemes.lock().unwrap(), [Scheme::HTTPS, Scheme::HTTPS]);
}

#[tokio::test]
async fn connection_of_a_rescued_service_runs_in_a_task_of_its_own() {
    let (mut client, transport) = transport();
    let rescued = RescueLayer::new().layer(path());
    let task =
        tokio::spawn(
            async move { Connection::new(transport, rescued, Arc::new(Config::new())).await },
        );
    client.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\n/a"), "{answer}");
    drop(client);
    task.await.unwrap().unwrap();
}

#[test]
fn serve_options_commute() {
    type Hello = fn(Request) -> std::future::Ready<Result<Response, Infallible>>;
    type Option = fn(Serve<tower::util::ServiceFn<Hello>>) -> Serve<tower::util::ServiceFn<Hello>>;
    let options: &[Option] = &[
        |s| s.http1(Http1Config::new().half_close(Duration::ZERO)),
        |s| s.limits(Limits { head_bytes: 1, ..Limits::default() }),
        |s| s.budget(Budget::builder().hard_limit(7).build()),
        |s| s.gate(Gate::new(Arc::new(tokio::sync::Semaphore::new(0)))),
        |s| s.write_timeout(Duration::from_secs(9)),
        |s| s.write_rate(MinRate::new(7, Duration::from_secs(7))),
        |s| s.answer_timeout(Duration::from_secs(8)),
        |s| s.ready_timeout(Duration::from_secs(6)),
        |s| s.without_access_log(),
        |s| s.runtime_threads(3),
        |s| s.connections(5),
        |s| s.connections_per_client(2),
        |s| s.shutdown_timeout(Duration::from_secs(4)),
        |s| s.drain_also(Drain::new()),
        #[cfg(feature = "h2")]
        |s| s.http2(crate::conn::Http2Config::new().max_streams(11)),
        |s| {
            s.proxy_protocol(crate::conn::ProxyProtocol::new().trust("10.0.0.0/8".parse().unwrap()))
        },
    ];
    let hello: Hello = |_| std::future::ready(Ok(Response::new(Body::empty())));
    let with = |order: &mut dyn Iterator<Item = &Option>| {
        let server = order.fold(serve("127.0.0.1:0", service_fn(hello)), |s, option| option(s));
        format!("{server:?}")
    };
    let default = with(&mut [].iter());
    for option in options {
        assert_ne!(with(&mut [*option].iter()), default, "each option is seen");
    }
    let forward = with(&mut options.iter());
    for first in 0..options.len() {
        let (tail, head) = options.split_at(first);
        assert_eq!(with(&mut head.iter().chain(tail)), forward);
        assert_eq!(with(&mut head.iter().chain(tail).rev()), forward);
    }
}

#[tokio::test]
async fn serve_refuses_options_that_serve_nothing() {
    let server = || serve("127.0.0.1:0", path());
    for server in
        [server().runtime_threads(0), server().connections(0), server().connections_per_client(0)]
    {
        let error = server.bind().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
    assert!(server().thread_per_core().bind().is_ok());
}
