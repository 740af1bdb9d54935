//! Tests of log lines about requests: each names its request, and each cause once.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Layer, ServiceBuilder, service_fn};
use tracing::instrument::WithSubscriber;

use super::support::refusing;
use crate::{
    Body, BoxError, Error, HttpService, Request, Response,
    conn::{Connection, Transport, testing::Lines},
    error::Kind,
    layer::{DisconnectLayer, RescueLayer},
    net::DrainWatch,
    peer::{Peer, RequestId},
    upstream::Upstream,
    worker,
};

/// Sends `request` as a client at 192.0.2.1:9. Returns the response and the log lines.
pub(super) async fn lines_of<S>(service: S, request: &str) -> (String, Lines)
where
    S: HttpService<Body, Future: Send> + Clone + Send + 'static,
{
    let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    let (mut client, io) = tokio::io::duplex(1 << 16);
    let transport = Transport::new(io, peer, DrainWatch::never());
    let connection = Connection::new(transport, service, Arc::default());
    let lines = Lines::default();
    let talk = async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        drop(client);
        String::from_utf8(answer).unwrap()
    };
    let both = async { tokio::join!(connection, talk).1 };
    let answer = both.with_subscriber(lines.subscriber()).await;
    (answer, lines)
}

const POST: &str =
    "POST /a/b?token=secret HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";

/// Asserts that there is one line about the request, with all of its fields and `text`, each once.
pub(super) fn assert_line(lines: &Lines, target: &str, level: &str, text: &str) {
    let lines = lines.of(target);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.trim_start().starts_with(level), "{line}");
    for field in ["client=192.0.2.1:9", "-1 ", "method=\"POST\"", "path=\"/a/b\"", text] {
        assert_eq!(line.matches(field).count(), 1, "{field} in {line}");
    }
    assert!(line.contains("request_id=") && !line.contains("secret"), "{line}");
}

async fn fails(_: Request) -> Result<Response, BoxError> {
    let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    Err(Error::new(Kind::Internal, refused).into())
}

#[tokio::test]
async fn rescued_error_names_its_request_and_each_cause_once() {
    let (answer, lines) = lines_of(RescueLayer::new().layer(service_fn(fails)), POST).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "internal error: connection refused");
}

#[tokio::test]
async fn unrescued_error_names_its_request() {
    let (answer, lines) = lines_of(service_fn(fails), POST).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "internal error: connection refused");
}

#[tokio::test]
async fn rescue_below_a_nested_route_logs_the_requested_path() {
    let nested = RescueLayer::new().layer(service_fn(fails));
    let (_, lines) = lines_of(crate::Router::new().nest("/a", nested), POST).await;
    assert_line(&lines, "vestibule::request", "ERROR", "path=\"/a/b\"");
}

#[tokio::test(start_paused = true)]
async fn service_that_does_not_answer_in_time_is_logged_with_its_request() {
    let never = service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>());
    let (answer, lines) = lines_of(never, POST).await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "the service did not answer in time");
}

#[tokio::test]
async fn aborted_response_is_logged_with_its_request() {
    let breaks = service_fn(|_: Request| async {
        let (tx, body) = Body::channel(None);
        tx.send("some".into()).unwrap();
        tx.abort("the disk is gone");
        Ok::<_, Infallible>(Response::new(body))
    });
    let (_, lines) = lines_of(breaks, POST).await;
    assert_line(&lines, "vestibule::request", "WARN", "the disk is gone");
}

#[tokio::test]
async fn response_that_cannot_be_sent_is_logged_with_its_request() {
    let informs =
        service_fn(|_: Request| async { Response::builder().status(103).body(Body::empty()) });
    let (answer, lines) = lines_of(informs, POST).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "status=103");
}

#[tokio::test]
async fn panic_of_a_worker_is_logged_with_its_request() {
    let app = worker::threads(1, || worker::blocking(|_| -> Response { panic!("expected") }));
    let app = ServiceBuilder::new().layer(RescueLayer::new()).service(app.start().unwrap());
    let (answer, lines) = lines_of(app, POST).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_line(&lines, "vestibule::request", "ERROR", "panicked: expected");
}

#[tokio::test]
async fn ejected_endpoint_is_logged_with_the_request_that_failed() {
    let refusing = refusing();
    let upstream = Upstream::new([refusing.to_string()]).unwrap();
    let (answer, lines) = lines_of(RescueLayer::new().layer(upstream), POST).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let text = format!("cannot connect to {refusing}");
    assert_line(&lines, "vestibule::upstream", "WARN", &text);
    assert_line(&lines, "vestibule::request", "WARN", &text);
}

#[tokio::test(start_paused = true)]
async fn detached_work_that_fails_is_logged_with_its_request() {
    let layer = DisconnectLayer::detach();
    let detached = layer.detached();
    let slow = service_fn(|request: Request| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        fails(request).await
    });
    let lines = Lines::default();
    let mut request = Request::post("/a/b?token=secret").body(Body::empty()).unwrap();
    request.extensions_mut().insert(RequestId::new(7, 1));
    let peer = Peer::tcp("192.0.2.1:9".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    request.extensions_mut().insert(peer);
    let _subscriber = tracing::subscriber::set_default(lines.subscriber());
    let mut call = tower::Service::call(&mut layer.layer(slow), request);
    let left = std::future::poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut call).poll(cx).is_pending());
        std::task::Poll::Ready(())
    });
    left.await;
    drop(call);
    detached.ended().await;
    assert_line(&lines, "vestibule::request", "WARN", "internal error: connection refused");
}

#[tokio::test]
async fn refused_head_is_logged_with_its_client() {
    let (answer, lines) = lines_of(service_fn(fails), "nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let lines = lines.of("vestibule::request");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains("client=192.0.2.1:9") && !line.contains("method="), "{line}");
}

#[tokio::test]
async fn request_has_an_id_that_increases_on_its_connection() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = ids.clone();
    let notes = service_fn(move |request: Request| {
        seen.lock().unwrap().push(*request.extensions().get::<RequestId>().unwrap());
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    lines_of(notes.clone(), &format!("{get}{get}{POST}")).await;
    lines_of(notes, POST).await;
    let ids = ids.lock().unwrap();
    let requests: Vec<_> = ids.iter().map(|id| id.request()).collect();
    assert_eq!(requests, [1, 2, 3, 1]);
    assert!(ids[..3].iter().all(|id| id.connection() == ids[0].connection()));
    assert_ne!(ids[3].connection(), ids[0].connection());
}
