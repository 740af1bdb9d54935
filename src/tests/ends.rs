//! Tests of the ends of connections: responses arrive completely, and neither side waits for the other.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::{Notify, oneshot},
};
use tower::service_fn;

use super::support::{exchange, read_all, read_until, start, start_with, statuses, within};
use crate::{
    Body, Request, Response,
    conn::{
        Delivery, Http1Config, SingleUse,
        h1::client::{Connection, Exchange},
    },
    net::Io,
    proto::h1::Limits,
};

/// More than the buffers of both sockets.
const LARGE: usize = 32 << 20;

async fn large(_: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::from(vec![b'x'; LARGE])))
}

/// Reads to the end. Returns the number of bytes, and whether the end was orderly.
async fn count(client: &mut TcpStream) -> (usize, bool) {
    let mut bytes = Vec::new();
    let end = within(client.read_to_end(&mut bytes)).await;
    (bytes.len(), end.is_ok())
}

#[tokio::test]
async fn bytes_after_the_last_request_do_not_truncate_its_response() {
    let server = start(service_fn(large)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    // The empty line of an old client, while the response is written.
    client.write_all(b"\r\n").await.unwrap();
    assert_eq!(count(&mut client).await, (LARGE, true));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn request_at_shutdown_does_not_affect_the_response_before_it() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for is_complete in [false, true] {
        let server = start(service_fn(large)).await;
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(request).await.unwrap();
        assert!(!read_until(&mut client, "\r\n\r\n").await.contains("close"));
        let next = if is_complete { &request[..] } else { &request[..10] };
        client.write_all(next).await.unwrap();
        let addr = server.addr;
        let stopping = tokio::spawn(server.stop());
        within(async {
            while TcpStream::connect(addr).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let mut body = vec![0; LARGE];
        within(client.read_exact(&mut body)).await.unwrap();
        let mut rest = Vec::new();
        within(client.read_to_end(&mut rest)).await.expect("an orderly end");
        let rest = String::from_utf8(rest).unwrap();
        assert_eq!(statuses(&rest), [200; 1][..usize::from(is_complete)]);
        assert_eq!(rest.contains("connection: close\r\n"), is_complete);
        assert!(rest.len() >= if is_complete { LARGE } else { 0 });
        drop(client);
        within(stopping).await.unwrap();
    }
}

#[tokio::test]
async fn panic_does_not_affect_earlier_responses() {
    let server = start(service_fn(|request: Request| async move {
        assert!(request.uri().path() != "/panic", "expected");
        Ok::<_, Infallible>(Response::new(Body::from("fine")))
    }))
    .await;
    let both = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /panic HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(statuses(&exchange(server.addr, both).await), [200, 500]);
    server.stop().await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_unread_body() {
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

#[tokio::test]
async fn client_waiting_for_permit_is_released_when_shutdown_begins() {
    let (began, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, g) = (began.clone(), go_on.clone());
    let slow = service_fn(move |_: Request| {
        let (began, go_on) = (b.clone(), g.clone());
        async move {
            began.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    });
    let server = start_with(slow, |s| s.connections(1)).await;
    let mut first = TcpStream::connect(server.addr).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    within(began.notified()).await;
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await; // it is accepted, or is still in the queue: both may be
    }
    let stopping = tokio::spawn(server.stop());
    assert_eq!(read_all(&mut second).await, "", "while the first is still served");
    go_on.notify_one();
    assert!(read_all(&mut first).await.ends_with("done"));
    within(stopping).await.unwrap();
}

#[tokio::test]
async fn idle_connection_is_checked_without_task_budget() {
    let (io, server) = tokio::io::duplex(1 << 10);
    let mut connection = Connection::new(io, Arc::new(Limits::default()));
    let (result, receiver) = oneshot::channel();
    let task = tokio::spawn(async move {
        let usable = poll_fn(|cx| {
            while pin!(tokio::task::consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(connection.poll_usable(cx))
        });
        let _ = result.send(usable.await);
    });
    drop(server);
    assert!(!within(receiver).await.unwrap(), "the server has closed it");
    within(task).await.unwrap();
}

#[tokio::test]
async fn empty_line_does_not_make_shutdown_wait_for_its_client() {
    let hour = std::time::Duration::from_secs(3600);
    let http1 = Http1Config::new().linger(hour);
    let hello =
        service_fn(|_: Request| async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) });
    let server = start_with(hello, |s| s.http1(http1)).await;
    let mut client = TcpStream::connect(server.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut client, "hello").await;
    client.write_all(b"\r\n").await.unwrap();
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    server.stop().await; // the client does not react to it
    assert_eq!(read_all(&mut client).await, "");
}

/// A stream to a server that refuses the request while it is being written, and closes the connection.
#[derive(Default)]
struct Refusing {
    response: &'static [u8],
}

impl AsyncRead for Refusing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.response.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(std::mem::take(&mut self.response));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Refusing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.response = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Io for Refusing {}

#[tokio::test]
async fn response_to_a_failed_write_is_read_though_the_check_has_just_read() {
    let mut connection = Connection::new(Refusing::default(), Arc::new(Limits::default()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(connection.poll_usable(&mut cx));
    let mut exchange = Exchange::unconnected(Request::new(Body::empty()), (), SingleUse);
    exchange.connect_usable(connection);
    let Poll::Ready(Ok(response)) = pin!(exchange).poll(&mut cx) else { panic!("no response") };
    assert_eq!(response.status(), 503);
}

/// A stream that fails each write, after its socket has accepted a number of bytes, as one with TLS does whose records
/// are written one by one.
struct Failing {
    accepts: u64,
    socket_written: u64,
}

impl AsyncRead for Failing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Failing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket_written += self.accepts;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Io for Failing {
    fn socket_written(&self) -> Option<u64> {
        Some(self.socket_written)
    }
}

#[tokio::test]
async fn request_of_which_the_socket_has_accepted_bytes_may_have_been_sent() {
    for (accepts, delivery) in [(0, Delivery::NotSent), (16 << 10, Delivery::MaybeSent)] {
        let io = Failing { accepts, socket_written: 1000 };
        let connection = Connection::new(io, Arc::new(Limits::default()));
        let request = Request::new(Body::from(vec![b'x'; 100_000]));
        let error = within(connection.exchange(request, SingleUse)).await.unwrap_err();
        assert_eq!(error.delivery, delivery);
        assert!(error.request.is_some(), "it can be replayed");
    }
}
