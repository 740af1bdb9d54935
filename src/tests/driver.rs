//! Tests of the drivers in virtual time, over memory and sockets: deadlines, ends and fairness.

mod socket_path;

use std::{
    convert::Infallible,
    io::ErrorKind,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{Notify, mpsc, oneshot},
};
use tower::service_fn;

use super::support::{exchange, read_all, read_until, start, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{
        Config, Transport,
        h1::{client, server},
    },
    net::{Acceptor, Address, DrainWatch, Io, Listener},
    peer::Peer,
    proto::h1::Limits,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn response_may_take_longer_than_idle_timeout() {
    const LEN: usize = 4 << 20;
    let limits = Limits { idle_timeout: Duration::from_secs(5), ..Limits::default() };
    let config = Config::new().limits(limits);
    let page = Bytes::from(vec![b'x'; LEN]);
    let service = service_fn(move |_: Request| {
        let page = page.clone();
        async { Ok::<_, Infallible>(Response::new(Body::from(page))) }
    });
    let (mut client, io) = tokio::io::duplex(64 << 10);
    let connection = server::Connection::new(
        Transport::new(io, Peer::memory(), DrainWatch::never()),
        service,
        Arc::new(config),
    );
    let task = tokio::spawn(connection);
    client.write_all(GET).await.unwrap();
    // 64 KiB per second, for a minute.
    let (mut got, mut buf) = (0, vec![0; 64 << 10]);
    while got < LEN {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let n = client.read(&mut buf).await.unwrap();
        assert!(n > 0, "cut after {got} bytes");
        got += n;
    }
    // Then it is idle, and is closed after five seconds.
    task.await.unwrap().unwrap();
    while client.read(&mut buf).await.unwrap() > 0 {}
}

/// A stream with one request, whose writes are pending until a gate opens.
struct Gated {
    request: Bytes,
    gate: Arc<Mutex<Gate>>,
}

#[derive(Default)]
struct Gate {
    open: bool,
    waker: Option<Waker>,
    written: Vec<u8>,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.request.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(&std::mem::take(&mut self.request));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut gate = self.gate.lock().unwrap();
        if !gate.open {
            gate.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        gate.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Io for Gated {}

#[tokio::test(start_paused = true)]
async fn write_timeout_starts_at_the_first_attempt() {
    // The response takes longer than `write_timeout`, and its write is then pending for a short time.
    let gate = Arc::new(Mutex::new(Gate::default()));
    let io = Gated { request: Bytes::from_static(GET), gate: gate.clone() };
    let service = service_fn(|_: Request| async {
        tokio::time::sleep(Duration::from_secs(31)).await;
        Ok::<_, Infallible>(Response::new(Body::from("hi")))
    });
    let connection = server::Connection::new(
        Transport::new(io, Peer::memory(), DrainWatch::never()),
        service,
        Arc::default(),
    );
    let task = tokio::spawn(connection);
    tokio::time::sleep(Duration::from_secs(32)).await;
    let waker = {
        let mut gate = gate.lock().unwrap();
        gate.open = true;
        gate.waker.take()
    };
    waker.expect("a write was tried").wake();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(gate.lock().unwrap().written.ends_with(b"\r\n\r\nhi"));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn server_timeout_starts_at_the_end_of_the_request() {
    let limits = Limits {
        head_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(10),
        ..Limits::default()
    };
    let (io, mut peer) = tokio::io::duplex(1024);
    let connection = client::Connection::new(io, Arc::new(limits));
    let body = Body::from(vec![0; 100 << 10]);
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let answer = tokio::spawn(connection.exchange(request, crate::conn::SingleUse));
    // The server takes 25 seconds to read the request, and one more to respond.
    let (mut got, mut buf) = (0, [0; 4096]);
    while got < 100 << 10 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        got += peer.read(&mut buf).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn body_that_ends_with_connection_is_reset_when_drain_aborts_it() {
    let (began, seen) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let (b, keep) = (began.clone(), seen.clone());
    let server = start_with(
        service_fn(move |_: Request| {
            let (tx, body) = Body::channel(None);
            tx.send("half".into()).unwrap();
            keep.lock().unwrap().push(tx); // the body never ends
            b.notify_one();
            async { Ok::<_, Infallible>(Response::new(body)) }
        }),
        |s| s.shutdown_timeout(Duration::from_millis(20)),
    )
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    within(began.notified()).await;
    read_until(&mut client, "half").await;
    server.stop().await;
    let mut rest = Vec::new();
    let ended = within(client.read_to_end(&mut rest)).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(seen);
}

#[tokio::test]
async fn dropped_server_ends_its_connections() {
    let began = Arc::new(Notify::new());
    let b = began.clone();
    let never = service_fn(move |_: Request| {
        b.notify_one();
        std::future::pending::<Result<Response, Infallible>>()
    });
    let bound = crate::serve("127.0.0.1:0", never).bind().unwrap();
    let Address::Tcp(addr) = bound.local_addr().unwrap() else { panic!("not TCP") };
    let server = tokio::spawn(bound.into_future());
    let (mut idle, mut busy) =
        (TcpStream::connect(&addr).await.unwrap(), TcpStream::connect(&addr).await.unwrap());
    busy.write_all(GET).await.unwrap();
    within(began.notified()).await;
    server.abort();
    for client in [&mut idle, &mut busy] {
        assert_eq!(read_all(client).await, "");
    }
}

#[tokio::test]
async fn request_body_can_be_read_after_the_response_has_started() {
    let (tx, mut read) = mpsc::unbounded_channel();
    let server = start(service_fn(move |request: Request| {
        let tx = tx.clone();
        async move {
            tokio::spawn(async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                tx.send(body).unwrap();
            });
            Ok::<_, Infallible>(Response::builder().status(202).body(Body::empty()).unwrap())
        }
    }))
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 202"));
    client.write_all(b"llo").await.unwrap();
    assert_eq!(within(read.recv()).await.unwrap(), "hello");
    // The connection continues.
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(read_until(&mut client, "\r\n\r\n").await.starts_with("HTTP/1.1 202"));
    assert_eq!(within(read.recv()).await.unwrap(), "ok");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn response_to_broken_body_arrives_although_the_client_keeps_sending() {
    let server = start(service_fn(|request: Request| async {
        request.into_body().collect().await?;
        Ok::<_, crate::BoxError>(Response::new(Body::empty()))
    }))
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let first = read_until(&mut client, "\r\n\r\n").await;
    assert_eq!(statuses(&first), [400]);
    // Less than the server discards, so that no byte causes a reset.
    for _ in 0..20 {
        client.write_all(&[b'x'; 20_000]).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, "400 Bad Request\n");
    server.stop().await;
}

#[tokio::test]
async fn accepting_thread_holds_no_connection_slot() {
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hi"))) });
    let server = start_with(hello, |s| s.runtime_threads(2).connections(1)).await;
    // The kernel distributes them over both threads; either may serve the only permitted connection.
    for _ in 0..20 {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert_eq!(statuses(&exchange(server.addr, request).await), [200]);
    }
    server.stop().await;
}

#[tokio::test]
async fn many_small_responses_leave_in_order_with_any_buffer_sizes() {
    let server = start(service_fn(|_: Request| async {
        let response = Response::builder().header("x-pad", "p".repeat(90));
        Ok::<_, Infallible>(response.body(Body::from("hi")).unwrap())
    }))
    .await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let all = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1499) + last;
    let (mut read, mut write) = client.split();
    let mut answers = String::new();
    let (sent, got) = within(async {
        tokio::join!(write.write_all(all.as_bytes()), read.read_to_string(&mut answers))
    })
    .await;
    sent.unwrap();
    got.unwrap();
    assert_eq!(statuses(&answers), [200; 1500]);
    server.stop().await;
}

/// A service that becomes ready on request, and responds at once.
#[derive(Clone)]
struct Held(Arc<Mutex<Option<Until>>>, Bytes);

type Until = Pin<Box<dyn Future<Output = ()> + Send>>;

impl tower::Service<Request> for Held {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let mut until = self.0.lock().unwrap();
        if let Some(future) = &mut *until {
            std::task::ready!(future.as_mut().poll(cx));
            *until = None;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request) -> Self::Future {
        std::future::ready(Ok(Response::new(Body::from(self.1.clone()))))
    }
}

#[tokio::test]
async fn bytes_after_delayed_request_do_not_truncate_its_response() {
    const LEN: usize = 40_000;
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".to_owned()), false).unwrap();
    let to = listener.local_addr().unwrap().to_string().parse().unwrap();
    let mut acceptor = Acceptor::new(listener).unwrap();
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        // A client with a small receive buffer, so that most of the response stays in the server's send queue.
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(2304).unwrap();
        let (accepted, client) = tokio::join!(acceptor.accept(), client.connect(to));
        let mut client = client.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (asked, is_asked) = oneshot::channel::<()>();
        let until: Until = Box::pin(async move {
            let _ = asked.send(());
            let _ = stopped.await;
        });
        let service = Held(Arc::new(Mutex::new(Some(until))), Bytes::from(vec![b'x'; LEN]));
        let task = tokio::spawn(server::Connection::new(
            Transport::new(accepted.stream, Peer::unix(), DrainWatch::never()),
            service,
            Arc::default(),
        ));
        within(is_asked).await.unwrap();
        // RFC 9112 section 2.2: some clients send an empty line after a body.
        client.write_all(b"\r\n").await.unwrap();
        stop.send(()).unwrap();
        let mut got = Vec::new();
        within(client.read_to_end(&mut got)).await.unwrap();
        assert!(got.len() > LEN, "{} bytes", got.len());
        drop(client);
        let _ = within(task).await;
    }
}
