//! How connections end: what was answered arrives whole, and nobody is kept waiting for nothing.

use std::{convert::Infallible, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
};
use tower::service_fn;

use super::support::{exchange, read_all, read_until, start, start_with, statuses, within};
use crate::{Body, Request, Response, conn::h1::client::Connection, proto::h1::Limits};

/// More than the buffers of both sockets.
const LARGE: usize = 32 << 20;

async fn large(_: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::from(vec![b'x'; LARGE])))
}

/// Reads to the end: how many bytes, and was it an orderly one?
async fn count(client: &mut TcpStream) -> (usize, bool) {
    let mut bytes = Vec::new();
    let end = within(client.read_to_end(&mut bytes)).await;
    (bytes.len(), end.is_ok())
}

#[tokio::test]
async fn bytes_behind_the_last_request_do_not_cost_its_response() {
    let server = start(service_fn(large)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    // While the response is written: the empty line of an old client.
    client.write_all(b"\r\n").await.unwrap();
    assert_eq!(count(&mut client).await, (LARGE, true));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_a_shutdown_forestalls_does_not_cost_the_response_before_it() {
    let server = start(service_fn(large)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    assert!(!read_until(&mut client, "\r\n\r\n").await.contains("close"));
    client.write_all(request).await.unwrap();
    let addr = server.addr;
    let stopping = tokio::spawn(server.stop());
    within(async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(count(&mut client).await, (LARGE, true));
    drop(client);
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_body_that_nobody_reads() {
    let early =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("early"))) });
    let server = start(early).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    read_until(&mut client, "early").await;
    let stopping = tokio::spawn(server.stop());
    assert_eq!(read_all(&mut client).await, "");
    drop(client);
    within(stopping).await.unwrap();
}
