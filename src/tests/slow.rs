//! Five hundred slow clients and two workers: no slow client ever occupies a worker.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Barrier, Notify, Semaphore},
    task::JoinSet,
};
use tower::{Layer, ServiceBuilder, service_fn};

use super::support::{TIMEOUT, read_until, start, within};
use crate::{
    Body, Request, Response,
    layer::{RequestBufferLayer, ResponseBufferLayer},
    worker,
};

const UPLOADERS: usize = 250;
const READERS: usize = 250;
const HEALTHY: usize = 4;
const REQUESTS: usize = 100;
/// More than the sockets buffer, and less than the response buffer.
const PAGE: usize = 600_000;

fn app(request: Request<Bytes>) -> Response {
    let body = match request.uri().path() {
        // In pieces, so that the worker would have to wait without a response buffer.
        "/page" => return Response::new(page()),
        _ => request.into_body(),
    };
    Response::new(body.into())
}

fn page() -> Body {
    let (tx, body) = Body::channel(Some(PAGE as u64));
    let piece = Bytes::from(vec![b'p'; PAGE / 10]);
    (0..10).for_each(|_| tx.send(piece.clone()).unwrap());
    tx.finish(None);
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slow_client_ever_holds_a_worker() {
    let threads = worker::threads(2, || worker::blocking(app)).start().unwrap();
    let front = ServiceBuilder::new()
        .layer(ResponseBufferLayer::new())
        .layer(RequestBufferLayer::new())
        .service(threads.clone());
    let server = start(front).await;
    let addr = server.addr;

    // All slow clients are in the middle of their exchange: half of the body sent, or only the head read.
    let midway = Arc::new(Barrier::new(UPLOADERS + READERS + 1));
    let go_on = Arc::new(Semaphore::new(0));
    let mut slow = JoinSet::new();
    for _ in 0..UPLOADERS {
        slow.spawn(upload(addr, midway.clone(), go_on.clone()));
    }
    for _ in 0..READERS {
        slow.spawn(read(addr, midway.clone(), go_on.clone()));
    }
    within(midway.wait()).await;

    let mut healthy = JoinSet::new();
    for n in 0..HEALTHY {
        healthy.spawn(async move {
            let mut client = TcpStream::connect(addr).await.unwrap();
            for i in 0..REQUESTS {
                let body = format!("healthy-{n}-{i}.");
                let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:";
                let request = format!("{head} {}\r\n\r\n{body}", body.len());
                client.write_all(request.as_bytes()).await.unwrap();
                let answer = read_until(&mut client, &body).await;
                assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
            }
        });
    }
    while let Some(done) = within(healthy.join_next()).await {
        done.unwrap();
    }
    assert_eq!(slow.try_join_next().map(|r| r.unwrap()), None, "the slow ones are as they were");
    // The workers have finished all requests and are idle. A worker counts a request shortly after its response was
    // sent.
    within(async {
        while threads.stats().busy > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let stats = threads.stats();
    assert_eq!((stats.queued, stats.stuck, stats.abandoned), (0, 0, 0));
    assert_eq!(stats.served, (READERS + HEALTHY * REQUESTS) as u64, "and no upload yet");

    go_on.add_permits(UPLOADERS + READERS);
    while let Some(done) = within(slow.join_next()).await {
        done.unwrap();
    }
    server.stop().await;
    threads.shutdown(TIMEOUT).await.unwrap();
}

/// Sends a head and half of a body in small pieces, and the rest after a permit of `go_on`.
async fn upload(addr: SocketAddr, midway: Arc<Barrier>, go_on: Arc<Semaphore>) {
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.set_nodelay(true).unwrap();
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nABCDEFGHIJKLMNOPQRST";
    let (first, rest) = request.split_at(request.len() - 10);
    for piece in first.chunks(7) {
        client.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    midway.wait().await;
    go_on.acquire().await.unwrap().forget();
    for byte in rest {
        client.write_all(&[*byte]).await.unwrap();
    }
    let answer = read_until(&mut client, "\r\n\r\nABCDEFGHIJKLMNOPQRST").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
}

/// Requests a page that does not fit into its small receive buffer, and reads it after a permit of `go_on`.
async fn read(addr: SocketAddr, midway: Arc<Barrier>, go_on: Arc<Semaphore>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut client = TcpStream::from_std(socket.into()).unwrap();
    let request = b"GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains(&format!("content-length: {PAGE}\r\n")));
    midway.wait().await;
    go_on.acquire().await.unwrap().forget();
    let mut page = Vec::new();
    client.read_to_end(&mut page).await.unwrap();
    assert!(page.len() == PAGE && page.iter().all(|&b| b == b'p'));
}

#[tokio::test]
async fn kernel_buffers_at_most_the_send_limit_for_client_that_does_not_read() {
    // R4: the server writes little more than the client has received.
    let (tx, body) = Body::channel(None);
    let body = std::sync::Mutex::new(Some(body));
    let body = Arc::new(body);
    let app = service_fn(move |_: Request<Body>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, std::convert::Infallible>(Response::new(body)) }
    });
    let server = start(app).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut client = socket.connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut sent = 0;
    // Until no write has made progress for a long time.
    while let Ok(ready) = tokio::time::timeout(Duration::from_millis(300), tx.ready()).await {
        ready.unwrap();
        tx.send(Bytes::from(vec![b'x'; 16 << 10])).unwrap();
        sent += 16 << 10;
    }
    assert!(sent < 512 << 10, "{sent} bytes");
    drop(client);
    server.stop().await;
}

/// Returns a streamed body of `len` bytes, with or without a known length. Notifies `taken` when all of it was polled.
fn stream(len: usize, known: bool, taken: Arc<Notify>) -> Body {
    let (tx, body) = Body::channel(known.then_some(len as u64));
    tokio::spawn(async move {
        let mut at = 0;
        while at < len {
            if tx.ready().await.is_err() {
                return;
            }
            let piece: Vec<u8> = (at..len.min(at + 50_000)).map(|i| (i / 7) as u8).collect();
            at += piece.len();
            let _ = tx.send(piece.into());
        }
        tx.finish(None);
        taken.notify_one();
    });
    body
}

#[tokio::test]
async fn spilled_body_reaches_the_client_unchanged() {
    let taken = Arc::new(Notify::new());
    let tell = taken.clone();
    let app = service_fn(move |request: Request<Body>| {
        let path = request.uri().path();
        let len = path[2..].parse().unwrap();
        let body = stream(len, path.starts_with("/k"), tell.clone());
        async { Ok::<_, std::convert::Infallible>(Response::new(body)) }
    });
    let buffered =
        ServiceBuilder::new().layer(ResponseBufferLayer::new().max_memory(60_000)).service(app);
    let server = start(buffered).await;
    let want = |len: usize| (0..len).map(|i| (i / 7) as u8).collect::<Vec<_>>();
    for len in [0, 1, 60_000, 250_000, 3_000_000] {
        for path in [format!("/k{len}"), format!("/u{len}")] {
            let mut client = TcpStream::connect(server.addr).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            within(taken.notified()).await; // all of it is on disk, or on its way there
            let mut all = Vec::new();
            within(client.read_to_end(&mut all)).await.unwrap();
            let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let mut body = bytes::BytesMut::from(&all[end..]);
            if path.starts_with("/u") {
                body = unchunk(&body);
            }
            assert!(body[..] == want(len), "{path}: {} bytes", body.len());
            // Over a connection without `sendfile`.
            let app = service_fn(move |_: Request<Body>| {
                let body = stream(len, true, Arc::default());
                async { Ok::<_, std::convert::Infallible>(Response::new(body)) }
            });
            let app = ResponseBufferLayer::new().max_memory(60_000).layer(app);
            let (mut client, io) = tokio::io::duplex(30_000);
            let connection = crate::conn::h1::server::Connection::new(
                crate::conn::Transport::new(
                    io,
                    crate::peer::Peer::memory(),
                    crate::net::DrainWatch::never(),
                ),
                app,
                Arc::default(),
            );
            let task = tokio::spawn(connection);
            client.write_all(head.as_bytes()).await.unwrap();
            let mut all = Vec::new();
            within(client.read_to_end(&mut all)).await.unwrap();
            assert!(all.ends_with(&want(len)) && all.len() < len + 500, "{path}");
            task.await.unwrap().unwrap();
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn file_bytes_in_the_kernel_are_not_overwritten() {
    // `sendfile` passes the file's pages to the socket, which holds them until the client has received them.
    const LEN: usize = 20_000;
    let (tx, body) = Body::channel(Some(2 * LEN as u64));
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let app = service_fn(move |_: Request<Body>| {
        let body = body.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, std::convert::Infallible>(Response::new(body)))
    });
    let server = start(ResponseBufferLayer::new().max_memory(0).layer(app)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut all = vec![0; 3 * LEN];
    for (n, letter) in [b'a', b'b'].into_iter().enumerate() {
        tx.send(Bytes::from(vec![letter; LEN])).unwrap();
        // The client has received the bytes, and has not read them.
        while within(client.peek(&mut all)).await.unwrap() < (n + 1) * LEN {}
    }
    tx.finish(None);
    all.clear();
    within(client.read_to_end(&mut all)).await.unwrap();
    let (a, b) = all[all.len() - 2 * LEN..].split_at(LEN);
    assert!(a.iter().all(|&x| x == b'a') && b.iter().all(|&x| x == b'b'));
    server.stop().await;
}

/// Returns the data of a chunked body without trailers.
fn unchunk(mut body: &[u8]) -> bytes::BytesMut {
    let mut data = bytes::BytesMut::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = std::str::from_utf8(&body[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body = &body[line + 2..];
        data.extend_from_slice(&body[..size]);
        assert_eq!(&body[size..size + 2], b"\r\n");
        body = &body[size + 2..];
        if size == 0 {
            assert!(body.is_empty());
            return data;
        }
    }
}
