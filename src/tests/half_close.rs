//! Tests of clients that end their sending half after a request: they get a response within a bounded time.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::Notify,
    time::Instant,
};
use tower::service_fn;

use super::support::{read_all, start, statuses, within};
use crate::{
    Body, HttpService, Request, Response, Router,
    conn::{Config, Connection, Http1Config, Transport},
    net::DrainWatch,
    peer::Peer,
    worker,
};

const GET: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns a client and the connection that serves it.
fn connect<S>(service: S, config: Config) -> (DuplexStream, Connection<DuplexStream, S>)
where
    S: HttpService + Clone,
    S::Future: Send + 'static,
{
    let (client, io) = tokio::io::duplex(1 << 16);
    let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    (client, Connection::new(transport, service, Arc::new(config)))
}

/// Polls once, which reads all that the client has sent, including its end.
fn poll_once<F: Future + Unpin>(connection: &mut F) {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(connection).poll(&mut cx).is_pending());
}

/// A service that drops the body, waits for `open`, and responds with the path of the request.
fn gated(open: Arc<Notify>) -> impl HttpService<Body, Future: Send> + Clone {
    service_fn(move |request: Request| {
        let open = open.clone();
        async move {
            let path = request.uri().path().to_owned();
            drop(request);
            open.notified().await;
            open.notify_one(); // for the next request
            Ok::<_, Infallible>(Response::new(Body::from(path)))
        }
    })
}

/// Returns the responses to requests that are sent in `pieces`. All of them, and the end of the client's half, are
/// read before the service responds.
async fn answers(pieces: &[&[u8]]) -> String {
    let open = Arc::new(Notify::new());
    let (mut client, mut connection) = connect(gated(open.clone()), Config::new());
    for piece in pieces {
        client.write_all(piece).await.unwrap();
        poll_once(&mut connection);
    }
    client.shutdown().await.unwrap();
    poll_once(&mut connection);
    open.notify_one();
    connection.await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_is_answered() {
    let answer = answers(&[GET]).await;
    assert_eq!((statuses(&answer), answer.matches("close").count()), (vec![200], 1), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_gets_responses_to_all_pipelined_requests() {
    let answer = answers(&[&[GET, GET, GET].concat()]).await;
    assert_eq!(statuses(&answer), [200, 200, 200], "{answer}");
    let heads: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).collect();
    let closes: Vec<bool> = heads.iter().map(|head| head.contains("close\r\n")).collect();
    assert_eq!(closes, [false, false, true], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_gets_an_error_for_its_incomplete_request() {
    let answer = answers(&[&[GET, &GET[..9]].concat()]).await;
    assert_eq!(statuses(&answer), [200, 400], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_is_answered_although_its_body_is_not_read() {
    let head = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    let answer = answers(&[head, b"hello"]).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_is_answered_although_its_chunked_body_is_not_read() {
    let head: &[u8] = b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
    for pieces in [&[&*[head, body].concat()][..], &[head, body], &[head, &body[..9], &body[9..]]] {
        let answer = answers(pieces).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    }
    let answer = answers(&[head, &[body, GET].concat()]).await;
    assert_eq!(statuses(&answer), [200, 200], "{answer}");
}

/// Returns the number of seconds until the server closes the connection of a half-closed client.
async fn waited<S>(service: S, half_close: Duration, request: &[u8]) -> (u64, String)
where
    S: HttpService + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let config = Config::new().http1(Http1Config::new().half_close(half_close));
    let (mut client, connection) = connect(service, config);
    let began = Instant::now();
    client.write_all(request).await.unwrap();
    client.shutdown().await.unwrap();
    let _ = connection.await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    (began.elapsed().as_secs(), String::from_utf8(answer).unwrap())
}

#[tokio::test(start_paused = true)]
async fn half_closed_client_counts_as_disconnected_after_its_timeout() {
    let silent = || service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>());
    for (time, waits) in [(0, 0), (30, 30), (u64::MAX, 300)] {
        let (waited, answer) = waited(silent(), Duration::from_secs(time), GET).await;
        let statuses = statuses(&answer);
        // With the longest time, the timeout of the service applies.
        assert_eq!((waited, statuses), (waits, if time > 300 { vec![504] } else { vec![] }));
    }
    let half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    assert_eq!(waited(silent(), Duration::from_secs(30), half).await.0, 0, "half a request");
}

#[tokio::test(start_paused = true)]
async fn each_piece_of_a_response_restarts_the_timeout_of_a_half_closed_client() {
    let streams = |ends: bool| {
        service_fn(move |_: Request| async move {
            let (sender, body) = Body::channel(None);
            tokio::spawn(async move {
                for _ in 0..4 {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    sender.send(Bytes::from_static(b"piece")).unwrap();
                }
                if !ends {
                    std::future::pending::<()>().await;
                }
                sender.finish(None);
            });
            Ok::<_, Infallible>(Response::new(body))
        })
    };
    let (waits, answer) = waited(streams(true), Duration::from_secs(30), GET).await;
    assert_eq!((waits, answer.matches("piece").count()), (80, 4));
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    let (waits, answer) = waited(streams(false), Duration::from_secs(30), GET).await;
    assert_eq!((waits, answer.matches("piece").count()), (110, 4));
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn half_closed_client_is_answered_by_files_and_workers_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), "from a file").unwrap();
    let worker = worker::threads(1, || worker::blocking(|_| Response::new("from a worker")));
    let site = Router::new()
        .nest("/files", crate::files::dir(dir.path()))
        .route("/worker", worker.start().unwrap());
    let server = start(crate::layer::RescueExt::infallible(site)).await;
    for (path, body) in [("/files/a", "from a file"), ("/worker", "from a worker")] {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = within(read_all(&mut client)).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(body), "{answer}");
    }
    server.stop().await;
}
