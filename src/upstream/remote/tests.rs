//! Tests of one server on loopback: the pool of idle connections and its owner.

mod exhaustion;
mod judgement;
#[cfg(feature = "h2")]
mod opening;
mod pool;

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    time::{advance, pause, timeout},
};
use tower::ServiceExt;

use super::*;
use crate::{
    peer::Deadline,
    upstream::{AttemptErrorKind, Delivery, PoolConfig, connector::Fault, tests::within},
};

const SEC: Duration = Duration::from_secs(1);
/// The resolution of the runtime's timers.
const TICK: Duration = Duration::from_millis(1);

#[tokio::test]
async fn host_of_requests_without_one_has_no_default_port() {
    for (server, host) in [
        ("http://a.example", "a.example"),
        ("a.example:80", "a.example"),
        ("a.example:8080", "a.example:8080"),
        ("h2://a.example:443", "a.example:443"),
        ("https://a.example", "a.example"),
        ("unix:/a", "localhost"),
    ] {
        let remote = Remote::builder(server.parse::<ServerAddress>().unwrap()).build();
        assert_eq!(remote.0.http1.protocol.host, host, "{server}");
    }
}

async fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr.into())
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

/// Makes attempts to connect fail.
fn inject(remote: &Remote, fault: Option<Fault>) {
    for connector in [&remote.0.connector, remote.0.http1.connector()] {
        *connector.fault.lock().unwrap() = fault;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    within(listener.accept()).await.unwrap().0
}

/// Reads a request's head.
async fn read_head(server: &mut TcpStream) -> String {
    let mut head = Vec::new();
    within(async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(server.read_u8().await.unwrap());
        }
    })
    .await;
    String::from_utf8(head).unwrap()
}

/// Accepts a connection, and answers a request on it with 204.
async fn serve_one(listener: &TcpListener) -> TcpStream {
    let mut server = accept(listener).await;
    answer(&mut server).await;
    server
}

async fn answer(server: &mut TcpStream) -> String {
    let head = read_head(server).await;
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    head
}

/// Lets other tasks run until none can continue.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn assert_closed(server: &mut TcpStream) {
    assert_eq!(within(server.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn idle_connections_are_closed_at_their_timeout_without_traffic() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().idle_timeout(60 * SEC)).build();
    let (one, mut first) = tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
    one.unwrap();
    pause();
    advance(30 * SEC).await;
    tokio::time::resume();
    // While the first connection is in use, a second one is opened, and is used last.
    let (mut a, mut b) = (remote.clone(), remote.clone());
    let (a, b) = (a.call(get()), b.call(get()));
    let (a, b, _, mut second) = tokio::join!(a, b, answer(&mut first), serve_one(&listener));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(remote.idle_connections(), 2);
    pause();
    advance(59 * SEC).await;
    settle().await;
    assert_eq!(remote.idle_connections(), 2);
    advance(SEC + TICK).await;
    settle().await;
    assert_eq!(remote.idle_connections(), 0);
    tokio::time::resume();
    assert_closed(&mut first).await;
    assert_closed(&mut second).await;
}

#[tokio::test]
async fn connections_after_an_empty_pool_are_closed_at_their_timeout_too() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).pool(PoolConfig::new().idle_timeout(60 * SEC)).build();
    for _ in 0..2 {
        let (response, mut server) =
            tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
        response.unwrap();
        settle().await;
        pause();
        advance(60 * SEC + TICK).await;
        settle().await;
        assert_eq!(remote.idle_connections(), 0);
        tokio::time::resume();
        assert_closed(&mut server).await;
    }
}

#[tokio::test]
async fn runtime_that_ends_closes_its_idle_connections_and_no_others() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).build();
    let (response, mut ours) = tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
    response.unwrap();
    let (again, theirs) = (remote.clone(), remote.clone());
    let other = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(theirs.oneshot(get())).unwrap();
        assert_eq!(again.idle_connections(), 2);
        drop(runtime);
        assert_eq!(again.idle_connections(), 1);
    });
    let mut theirs = serve_one(&listener).await;
    assert_closed(&mut theirs).await;
    other.join().unwrap();
    // The connection of this runtime still works.
    let (response, _) = tokio::join!(remote.clone().oneshot(get()), answer(&mut ours));
    response.unwrap();
}

#[tokio::test]
async fn connection_whose_body_ends_in_another_runtime_is_not_kept() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).build();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let response = runtime.spawn(remote.clone().oneshot(get()));
    let mut server = accept(&listener).await;
    read_head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    let body = response.await.unwrap().unwrap().into_body();
    server.write_all(b"body").await.unwrap();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "body");
    assert_eq!(remote.idle_connections(), 0);
    assert_closed(&mut server).await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn pool_keeps_no_more_connections_than_keep_idle() {
    for keep in [0, 1] {
        let (listener, address) = listen().await;
        let remote = Remote::builder(address).pool(PoolConfig::new().keep_idle(keep)).build();
        let two =
            || async { tokio::join!(remote.clone().oneshot(get()), remote.clone().oneshot(get())) };
        let servers = async {
            let mut first = accept(&listener).await;
            let mut second = accept(&listener).await;
            answer(&mut first).await;
            answer(&mut second).await;
            (first, second)
        };
        let ((a, b), _servers) = tokio::join!(two(), servers);
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(remote.idle_connections(), keep);
    }
}

#[tokio::test]
async fn request_without_host_names_the_server() {
    let (listener, address) = listen().await;
    let host = address.to_string();
    let remote = Remote::builder(address).build();
    let server = async || {
        let mut server = accept(&listener).await;
        let head = answer(&mut server).await;
        drop(server);
        head
    };
    let (response, head) = tokio::join!(remote.clone().oneshot(get()), server());
    response.unwrap();
    assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
    let absolute = Request::get("http://example.com/").body(Body::empty()).unwrap();
    let (response, head) = tokio::join!(remote.clone().oneshot(absolute), server());
    response.unwrap();
    assert!(head.contains("host: example.com\r\n"), "{head}");
}

#[tokio::test]
async fn request_past_its_deadline_is_not_sent_and_closes_no_connection() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).build();
    let (response, _server) = tokio::join!(remote.clone().oneshot(get()), serve_one(&listener));
    response.unwrap();
    let mut late = get();
    late.extensions_mut().insert(Deadline(crate::net::clock::now()));
    let mut error = remote.clone().oneshot(late).await.unwrap_err();
    assert_eq!((error.kind(), error.delivery()), (AttemptErrorKind::Timeout, Delivery::NotSent));
    assert!(error.take_request().is_some());
    assert_eq!(remote.idle_connections(), 1);
}

#[tokio::test]
async fn failure_reports_whether_the_request_may_have_been_sent() {
    // No other test gets its port when it is closed.
    let listener = TcpListener::bind("127.76.2.1:0").await.unwrap();
    let refused = listener.local_addr().unwrap();
    let remote = Remote::builder(Address::from(refused)).build();
    // The server reads the request and closes.
    let server = async {
        let mut server = accept(&listener).await;
        read_head(&mut server).await;
    };
    let (lost, ()) = tokio::join!(remote.clone().oneshot(get()), server);
    let mut lost = lost.unwrap_err();
    assert_eq!(
        (lost.kind(), lost.delivery()),
        (AttemptErrorKind::ConnectionLost, Delivery::MaybeSent)
    );
    assert_eq!(lost.take_request().unwrap().method(), Method::GET);
    // The same on an idle connection.
    let server = async {
        let mut server = serve_one(&listener).await;
        read_head(&mut server).await;
    };
    let client = async {
        remote.clone().oneshot(get()).await.unwrap();
        remote.clone().oneshot(get()).await.unwrap_err()
    };
    let (stale, ()) = tokio::join!(client, server);
    assert_eq!(
        (stale.kind(), stale.delivery()),
        (AttemptErrorKind::StaleConnection, Delivery::MaybeSent)
    );
    // No server listens.
    drop(listener);
    let (_tx, body) = Body::channel(None);
    let streamed = Request::post("/").body(body).unwrap();
    let mut unreachable = remote.oneshot(streamed).await.unwrap_err();
    assert_eq!(
        (unreachable.kind(), unreachable.delivery()),
        (AttemptErrorKind::Unreachable, Delivery::NotSent)
    );
    assert!(unreachable.take_request().is_some());
    assert!(
        std::error::Error::source(&unreachable).unwrap().to_string().contains(&refused.to_string())
    );
}

#[tokio::test]
async fn reused_connection_that_fails_within_a_response_is_not_stale() {
    let (listener, address) = listen().await;
    let remote = Remote::builder(address).build();
    let parts = ["H", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 103 Early Hints\r\n\r\n"];
    for (part, is_reset) in parts.iter().flat_map(|part| [(part, false), (part, true)]) {
        let server = async {
            let mut server = serve_one(&listener).await;
            read_head(&mut server).await;
            server.write_all(part.as_bytes()).await.unwrap();
            if is_reset {
                socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
            }
        };
        let client = async {
            remote.clone().oneshot(get()).await.unwrap();
            remote.clone().oneshot(get()).await.unwrap_err()
        };
        let (mut broken, ()) = tokio::join!(client, server);
        assert_ne!(broken.kind(), AttemptErrorKind::StaleConnection, "{part:?} {is_reset}");
        assert!(broken.take_request().is_none());
    }
}

#[tokio::test]
async fn invalid_response_is_protocol_error_without_the_request() {
    let (listener, address) = listen().await;
    let server = async {
        let mut server = accept(&listener).await;
        read_head(&mut server).await;
        server.write_all(b"220 smtp.example.com ESMTP\r\n\r\n").await.unwrap();
        server
    };
    let (error, _server) = tokio::join!(Remote::builder(address).build().oneshot(get()), server);
    let mut error = error.unwrap_err();
    assert_eq!(error.kind(), AttemptErrorKind::Protocol);
    assert!(error.take_request().is_none());
}

#[tokio::test]
async fn upload_continues_after_an_early_response_head() {
    const PIECE: usize = 20 << 10;
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut server = accept(&listener).await;
        read_head(&mut server).await;
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
        let mut body = vec![0; 3 * PIECE];
        server.read_exact(&mut body).await.unwrap();
        server.write_all(b"done").await.unwrap();
    });
    let remote = Remote::builder(address).build();
    let (tx, body) = Body::channel(Some(3 * PIECE as u64));
    let response = remote.oneshot(Request::post("/").body(body).unwrap()).await.unwrap();
    for _ in 0..3 {
        tx.send(vec![b'x'; PIECE].into()).unwrap();
    }
    tx.finish(None);
    let body = timeout(20 * SEC, response.into_body().collect()).await.expect("it stalls");
    assert_eq!(body.unwrap().to_bytes(), "done");
    server.await.unwrap();
}
