//! HTTP/2 connections to servers, with clients that do not read or disconnect: other requests do not notice.

use std::{convert::Infallible, future::poll_fn, sync::Arc};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tower::{ServiceExt, service_fn};

use super::shared::{get, text, upstream};
use crate::{
    Body, Budget, Request, Response,
    proto::h2::PREFACE,
    tests::support::{Running, start, within},
    upstream::{PoolConfig, Upstream},
};

fn request(path: &str) -> Request {
    Request::get(path).header("host", "a").body(Body::empty()).unwrap()
}

#[tokio::test]
async fn responses_that_are_not_read_stop_no_other() {
    let server = start(service_fn(async |request: Request| {
        let len = if request.uri().path() == "/large" { 1 << 20 } else { 1_000 };
        Ok::<_, Infallible>(Response::new(Body::from(vec![b'x'; len])))
    }))
    .await;
    let upstream = upstream(&server, PoolConfig::new().max_connections(1));
    let mut unread = Vec::new();
    for _ in 0..50 {
        unread.push(within(upstream.clone().oneshot(request("/large"))).await.unwrap());
        assert_eq!(text(get(&upstream).await.unwrap()).await.len(), 1_000);
    }
    for response in unread {
        assert_eq!(text(response).await.len(), 1 << 20);
    }
    server.stop().await;
}

#[tokio::test]
async fn frames_of_single_bytes_that_are_not_read_are_counted_and_end_no_connection() {
    const FRAMES: usize = 200_000;
    const UNREAD: usize = 3;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            let frames = if request.uri().path() == "/large" { FRAMES } else { 1 };
            for i in 1..=frames {
                stream.send_data(Bytes::from_static(b"x"), i == frames).unwrap();
            }
        }
    });
    let budget = Budget::default();
    let upstream = Upstream::builder([&address]).attempts(1).budget(budget.clone());
    let upstream = upstream.build().unwrap();
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        // A task, which runs when the driver pauses: the future of `block_on` would wait for 61 polls of tasks.
        let response = tokio::spawn(upstream.clone().oneshot(request("/large")));
        unread.push(within(response).await.unwrap().unwrap());
        // The server sends the frames of both responses in turn, so most of the large ones may come later.
        assert_eq!(text(get(&upstream).await.unwrap()).await, "x");
    }
    let all = UNREAD * FRAMES;
    let mut memory = 0;
    within(async {
        while memory < all - UNCOUNTED {
            tokio::task::yield_now().await;
            memory = usize::try_from(budget.usage().memory).unwrap();
        }
    })
    .await;
    assert!(memory <= all, "{memory} of {all}");
    for response in unread {
        assert_eq!(text(response).await, "x".repeat(FRAMES));
    }
    assert_eq!(budget.usage().memory, 0);
    server.abort();
}

/// The data of frames of a byte in one round of reads of 128 KiB, which is not counted yet.
const UNCOUNTED: usize = (128 << 10) / 10 + 2048;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [len[1], len[2], len[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// Reads frames up to the next request, and returns its stream. PING and SETTINGS are acknowledged.
async fn next_request(socket: &mut TcpStream) -> u32 {
    loop {
        let mut head = [0; 9];
        within(socket.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        within(socket.read_exact(&mut payload)).await.unwrap();
        match (head[3], head[4] & 1) {
            (HEADERS, _) => return u32::from_be_bytes(head[5..].try_into().unwrap()),
            (PING, 0) => socket.write_all(&frame(PING, 1, 0, &payload)).await.unwrap(),
            (SETTINGS, 0) => socket.write_all(&frame(SETTINGS, 1, 0, b"")).await.unwrap(),
            _ => {}
        }
    }
}

#[tokio::test]
async fn data_of_cancelled_requests_does_not_end_the_connection() {
    const CANCELLED: usize = 200;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let ok = |stream| frame(HEADERS, 4, stream, &[0x88]);
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        within(socket.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
        let mut cancelled = Vec::new();
        for _ in 0..CANCELLED {
            let stream = next_request(&mut socket).await;
            socket.write_all(&ok(stream)).await.unwrap();
            cancelled.push(stream);
        }
        // All others were reset before this request.
        let last = next_request(&mut socket).await;
        for stream in cancelled {
            let on_its_way = frame(DATA, 0, stream, &[b'x'; 300]).repeat(10);
            socket.write_all(&on_its_way).await.unwrap();
        }
        let answer = [ok(last), frame(DATA, 1, last, b"done")].concat();
        socket.write_all(&answer).await.unwrap();
        next_request(&mut socket).await
    });
    let upstream = Upstream::builder([&address]).attempts(1).build().unwrap();
    let mut responses = Vec::new();
    for _ in 0..CANCELLED {
        responses.push(get(&upstream).await.unwrap());
    }
    drop(responses);
    assert_eq!(text(get(&upstream).await.unwrap()).await, "done");
    server.abort();
}

#[tokio::test]
async fn requests_survive_a_server_that_ends_each_connection_after_one() {
    const REQUESTS: usize = 5;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("h2://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut sockets = Vec::new();
        for connection in 0..REQUESTS {
            let (mut socket, _) = listener.accept().await.unwrap();
            within(socket.read_exact(&mut [0; PREFACE.len()])).await.unwrap();
            socket.write_all(&frame(SETTINGS, 0, 0, b"")).await.unwrap();
            let first = next_request(&mut socket).await;
            // All others have been sent on this connection, too.
            for _ in connection + 1..REQUESTS {
                next_request(&mut socket).await;
            }
            let goaway = [first.to_be_bytes(), 0_u32.to_be_bytes()].concat();
            let answer = frame(HEADERS, 5, first, &[0x88]);
            socket.write_all(&[frame(GOAWAY, 0, 0, &goaway), answer].concat()).await.unwrap();
            sockets.push(socket);
        }
        sockets
    });
    let upstream = Upstream::builder([&address]).attempts(1).build().unwrap();
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let upstream = upstream.clone();
        requests.spawn(async move { get(&upstream).await.map(|response| response.status()) });
    }
    while let Some(status) = within(requests.join_next()).await {
        assert_eq!(status.unwrap().unwrap(), 200);
    }
    within(server).await.unwrap();
}

/// Sends `len` bytes over HTTP/2, and reads the response only after `has_all` is notified. Returns its length.
async fn send_all_first(front: &Running, len: usize, has_all: &Notify) -> usize {
    let socket = TcpStream::connect(front.addr).await.unwrap();
    let (mut client, connection) = within(h2::client::handshake(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let mut left = len;
    while left > 0 {
        stream.reserve_capacity(left);
        let n = within(poll_fn(|cx| stream.poll_capacity(cx))).await.unwrap().unwrap();
        stream.send_data(vec![0; n].into(), n == left).unwrap();
        left -= n;
    }
    within(has_all.notified()).await;
    let mut received = 0;
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        received += data.len();
    }
    received
}

/// Sends `len` bytes over HTTP/1.1, and reads the response only after `has_all` is notified. Returns its length.
async fn send_all_first_http1(front: &Running, len: usize, has_all: &Notify) -> usize {
    let mut socket = TcpStream::connect(front.addr).await.unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    within(socket.write_all(head.as_bytes())).await.unwrap();
    within(socket.write_all(&vec![0; len])).await.unwrap();
    within(has_all.notified()).await;
    let mut answer = Vec::new();
    within(socket.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.len() - answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() - 4
}

/// More than all buffers on the way.
const LONG: usize = 32 << 20;

/// A server that responds at once with a body, and notifies `has_all` when it has the request's.
async fn early_server(has_all: &Arc<Notify>) -> Running {
    let notified = has_all.clone();
    start(service_fn(move |request: Request| {
        let has_all = notified.clone();
        tokio::spawn(async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), LONG);
            has_all.notify_one();
        });
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::from(vec![0; LONG]))))
    }))
    .await
}

#[tokio::test]
async fn client_may_send_all_before_it_reads_the_response() {
    let has_all = Arc::new(Notify::new());
    let server = early_server(&has_all).await;
    let front = start(upstream(&server, PoolConfig::new())).await;
    assert_eq!(send_all_first(&front, LONG, &has_all).await, LONG);
    assert_eq!(send_all_first_http1(&front, LONG, &has_all).await, LONG);
    front.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn http1_client_may_send_all_before_it_reads_the_response_of_a_service() {
    let has_all = Arc::new(Notify::new());
    let server = early_server(&has_all).await;
    assert_eq!(send_all_first_http1(&server, LONG, &has_all).await, LONG);
    server.stop().await;
}

/// A proxy to an HTTP/1.1 server that serves one connection, responds at once with a body, and notifies `has_all` when it
/// has the request's.
async fn front_of_http1_server(has_all: &Arc<Notify>) -> (Running, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new([listener.local_addr().unwrap().to_string()]).unwrap();
    let notified = has_all.clone();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let writes = async {
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {LONG}\r\n\r\n");
            write.write_all(head.as_bytes()).await.unwrap();
            write.write_all(&vec![0; LONG]).await.unwrap();
        };
        let reads = async {
            let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
            while received < LONG {
                let n = read.read(&mut buffer).await.unwrap();
                assert_ne!(n, 0);
                received += n;
            }
            notified.notify_one();
            // A close before the rest is read would be a reset, which destroys the end of the response.
            while matches!(read.read(&mut buffer).await, Ok(1..)) {}
        };
        tokio::join!(writes, reads);
    });
    (start(upstream).await, server)
}

#[tokio::test]
async fn client_may_send_all_before_it_reads_the_response_of_an_http1_server() {
    let has_all = Arc::new(Notify::new());
    for is_http1 in [false, true] {
        let (front, server) = front_of_http1_server(&has_all).await;
        let received = match is_http1 {
            false => send_all_first(&front, LONG, &has_all).await,
            true => send_all_first_http1(&front, LONG, &has_all).await,
        };
        assert_eq!(received, LONG);
        within(server).await.unwrap();
        front.stop().await;
    }
}
