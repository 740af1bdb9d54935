//! HTTP/2 connections to servers, with clients that do not read or disconnect: other requests do not notice.

use std::convert::Infallible;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{ServiceExt, service_fn};

use super::shared::{get, text, upstream};
use crate::{
    Body, Budget, Request, Response,
    proto::h2::PREFACE,
    tests::support::{start, within},
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
        unread.push(within(upstream.clone().oneshot(request("/large"))).await.unwrap());
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
