//! One connection to an application that is scripted.

use std::{future::poll_fn, io::Write, sync::Mutex, task::Poll, time::Duration};

use http::Method;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
};

use super::*;
use crate::{
    body::FileSlice,
    conn::{Delivery, SingleUse, testing::Lines},
    error::Error,
    net::Stream,
    peer::Deadline,
    proto::fcgi::tests::app::{end, read_record, read_request, stderr, stdout},
};

const OK: &str = "Status: 200\n\n";

/// Keeps the connection that is given back.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Connection<DuplexStream>>>>);

impl Checkin<Connection<DuplexStream>> for Kept {
    fn checkin(self, connection: Connection<DuplexStream>, _: Instant) {
        *self.0.lock().unwrap() = Some(connection);
    }
}

/// Keeps a connection by a socket.
#[derive(Clone, Default)]
struct KeptStream(Arc<Mutex<Option<Connection<Stream>>>>);

impl Checkin<Connection<Stream>> for KeptStream {
    fn checkin(self, connection: Connection<Stream>, _: Instant) {
        *self.0.lock().unwrap() = Some(connection);
    }
}

impl Kept {
    fn take(&self) -> Option<Connection<DuplexStream>> {
        self.0.lock().unwrap().take()
    }
}

fn pair() -> (DuplexStream, Connection<DuplexStream>) {
    let (app, io) = duplex(1 << 20);
    (app, Connection::new(io, Arc::default()))
}

fn request(method: Method, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri("/a.php").body(body.into()).unwrap()
}

fn get() -> Request<Body> {
    request(Method::GET, Body::empty())
}

#[tokio::test]
async fn exchange_sends_the_request_and_streams_the_response() {
    let (mut app, connection) = pair();
    let kept = Kept::default();
    let mut params = Params::new();
    params.push(b"NAME", b"value").unwrap();
    let post = request(Method::POST, "ping");
    let exchange = tokio::spawn(connection.exchange(post, params, kept.clone()));
    let seen = read_request(&mut app).await;
    assert_eq!((&*seen.params["NAME"], &seen.stdin[..]), ("value", &b"ping"[..]));
    assert!(seen.keeps_connection);
    app.write_all(&stdout("Content-Type: a/b\nConnection: close\nX: y\n\npo")).await.unwrap();
    let response = exchange.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let fields: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(fields, ["content-type", "x"], "without those of the application's hop");
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "po");
    app.write_all(&stdout("ng")).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ng");
    assert!(kept.take().is_none(), "not before the end of the request");
    app.write_all(&end(0)).await.unwrap();
    assert!(body.frame().await.is_none());
    // It serves another exchange.
    let connection = kept.take().expect("it is given back");
    app.write_all(&[stdout(OK), end(0)].concat()).await.unwrap();
    let response = connection.exchange(get(), Params::new(), kept.clone()).await.unwrap();
    assert_eq!(response.body().len(), Some(0), "it is complete with its head");
    assert!(kept.take().is_some());
}

#[tokio::test]
async fn response_in_one_read_is_in_memory_with_its_length() {
    let (mut app, connection) = pair();
    let records = [stdout("Status: 200\n\none "), stdout("two "), stdout("three"), end(0)];
    app.write_all(&records.concat()).await.unwrap();
    let response = connection.exchange(get(), Params::new(), SingleUse).await.unwrap();
    assert_eq!(response.body().as_bytes().unwrap(), "one two three");
}

#[tokio::test]
async fn large_bodies_are_sent_in_records_from_memory_and_from_a_file() {
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let slice = FileSlice::new(Arc::new(file), 0, bytes.len() as u64);
    for body in [Body::from(bytes.clone()), Body::file(slice)] {
        let (app, io) = duplex(1000);
        let connection = Connection::new(io, Arc::default());
        let exchange = connection.exchange(request(Method::PUT, body), Params::new(), SingleUse);
        let app = async {
            let mut app = app;
            let seen = read_request(&mut app).await;
            app.write_all(&[stdout(OK), end(0)].concat()).await.unwrap();
            seen
        };
        let (response, seen) = tokio::join!(exchange, app);
        assert_eq!(response.unwrap().status(), 200);
        assert_eq!(seen.stdin.len(), bytes.len());
        assert!(seen.stdin == bytes);
    }
}

#[tokio::test]
async fn body_of_unknown_length_is_not_sent_and_costs_no_connection() {
    let (_app, connection) = pair();
    let kept = Kept::default();
    let (_sender, body) = Body::channel(None);
    let post = request(Method::POST, body);
    let error = connection.exchange(post, Params::new(), kept.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Misuse(Misuse::UnknownLength)));
    assert!(Misuse::UnknownLength.to_string().contains("RequestBufferLayer"));
    assert_eq!(error.delivery, Delivery::NotSent);
    assert!(error.request.is_some() && kept.take().is_some());
}

#[tokio::test]
async fn request_past_its_deadline_is_not_sent() {
    let (_app, connection) = pair();
    let kept = Kept::default();
    let mut late = get();
    late.extensions_mut().insert(Deadline(clock::now()));
    let error = connection.exchange(late, Params::new(), kept.clone()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Deadline));
    assert!(error.delivery == Delivery::NotSent && kept.take().is_some());
}

#[tokio::test(start_paused = true)]
async fn application_that_does_not_answer_or_pauses_is_too_slow() {
    let limits =
        Limits::default().head_timeout(Duration::from_secs(7)).body_timeout(Duration::from_secs(3));
    let started = tokio::time::Instant::now();
    let (_app, io) = duplex(1 << 20);
    let connection = Connection::new(io, Arc::new(limits.clone()));
    let error = connection.exchange(get(), Params::new(), SingleUse).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Timeout));
    assert_eq!(error.delivery, Delivery::MaybeSent);
    assert_eq!(started.elapsed().as_secs(), 7);

    let (mut app, io) = duplex(1 << 20);
    let connection = Connection::new(io, Arc::new(limits));
    app.write_all(&stdout("Status: 200\n\nhalf")).await.unwrap();
    let response = connection.exchange(get(), Params::new(), SingleUse).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(Error::find(&*error).unwrap().is_timeout());
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn application_that_closes_before_its_response_may_have_the_request() {
    let (mut app, connection) = pair();
    let exchange = tokio::spawn(connection.exchange(get(), Params::new(), SingleUse));
    read_request(&mut app).await;
    drop(app);
    let error = exchange.await.unwrap().unwrap_err();
    assert!(matches!(error.cause, Cause::Closed));
    assert_eq!(error.delivery, Delivery::MaybeSent);
    assert_eq!(error.request.unwrap().method(), Method::GET, "it can be sent again");
}

/// Runs two exchanges on a socket, of which the application answers the first. `end_of_app` is what it does then.
async fn second_exchange(is_php: bool, end_of_app: impl AsyncFnOnce(UnixStream)) -> ExchangeError {
    let (mut app, io) = UnixStream::pair().unwrap();
    let kept = KeptStream::default();
    let mut connection = Connection::new(Stream::from(io), Arc::default());
    if is_php {
        connection = connection.for_php();
    }
    app.write_all(&[stdout(OK), end(0)].concat()).await.unwrap();
    connection.exchange(get(), Params::new(), kept.clone()).await.unwrap();
    let connection = kept.0.lock().unwrap().take().unwrap();
    let exchange = connection.exchange(get(), Params::new(), SingleUse);
    let (error, ()) = tokio::join!(exchange, end_of_app(app));
    error.unwrap_err()
}

#[tokio::test]
async fn php_that_stops_writing_and_still_reads_has_not_begun_the_request() {
    for (is_php, delivery) in [(true, Delivery::NotSent), (false, Delivery::MaybeSent)] {
        let error = second_exchange(is_php, async |mut app| {
            app.shutdown().await.unwrap();
            while app.read(&mut [0; 1024]).await.unwrap() > 0 {}
        });
        let error = error.await;
        assert!(matches!(error.cause, Cause::Closed));
        assert_eq!(error.delivery, delivery, "other applications may have begun it");
        assert!(error.request.is_some());
    }
}

#[tokio::test]
async fn application_that_ends_on_a_used_connection_may_have_the_request() {
    let error = second_exchange(true, async |mut app| {
        read_request(&mut app).await;
        read_request(&mut app).await;
    });
    assert_eq!(error.await.delivery, Delivery::MaybeSent);
}

#[tokio::test]
async fn request_counts_as_read_only_if_the_kernel_knows_that_it_was() {
    let (_app, unknown) = pair();
    assert!(!unknown.is_all_read());
    let (_app, io) = UnixStream::pair().unwrap();
    assert!(Connection::new(Stream::from(io), Arc::default()).is_all_read());
}

#[tokio::test]
async fn response_that_is_truncated_or_contradicts_its_length_is_an_error() {
    for (records, fault) in [
        (vec![stdout("Stat")], Fault::Truncated),
        (vec![stderr("PHP Fatal error")], Fault::Truncated),
        (vec![end(0)], Fault::NoHead),
        (vec![end(2)], Fault::Rejected(Rejection::Overloaded)),
        (vec![stdout("Status: 200\nContent-Length: 3\n\nlonger"), end(0)], Fault::BodyTooLong),
        (vec![stdout("Status: 200\nContent-Length: 9\n\nshort"), end(0)], Fault::BodyTooShort),
        (vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()], Fault::Version),
    ] {
        let (mut app, connection) = pair();
        app.write_all(&records.concat()).await.unwrap();
        app.shutdown().await.unwrap();
        let error = connection.exchange(get(), Params::new(), SingleUse).await.unwrap_err();
        assert!(matches!(error.cause, Cause::Fault(f) if f == fault), "{:?}", error.cause);
        assert!(error.delivery == Delivery::Answered && error.request.is_none());
        let is_overloaded = fault == Fault::Rejected(Rejection::Overloaded);
        let kind = if is_overloaded { Kind::Overloaded } else { Kind::BadGateway };
        assert_eq!(Error::find(&*error.cause.into_error()).unwrap().kind(), kind);
    }
}

#[tokio::test]
async fn connection_whose_response_was_not_read_to_its_end_is_closed() {
    let (mut app, connection) = pair();
    let kept = Kept::default();
    app.write_all(&stdout("Status: 200\n\nhalf")).await.unwrap();
    let response = connection.exchange(get(), Params::new(), kept.clone()).await.unwrap();
    drop(response);
    read_request(&mut app).await;
    assert_eq!(app.read(&mut [0]).await.unwrap(), 0, "it is closed");
    assert!(kept.take().is_none());
    // Nor is one whose exchange was cancelled.
    let (mut app, connection) = pair();
    let exchange = tokio::spawn(connection.exchange(get(), Params::new(), kept.clone()));
    read_request(&mut app).await;
    exchange.abort();
    assert_eq!(app.read(&mut [0]).await.unwrap(), 0);
    assert!(kept.take().is_none());
}

#[tokio::test]
async fn connection_with_an_unsent_part_of_a_body_is_not_used_again() {
    let (mut app, connection) = pair();
    let kept = Kept::default();
    let (sender, body) = Body::channel(Some(10));
    let post = request(Method::POST, body);
    let exchange = tokio::spawn(connection.exchange(post, Params::new(), kept.clone()));
    while read_record(&mut app).await != (4, vec![]) {}
    app.write_all(&[stdout("Status: 413\n\n"), end(0)].concat()).await.unwrap();
    let response = exchange.await.unwrap().unwrap();
    assert_eq!(response.status(), 413);
    assert!(kept.take().is_none());
    drop(sender);
}

#[tokio::test]
async fn idle_connection_that_was_closed_or_has_input_is_not_usable() {
    let (mut app, connection) = pair();
    let kept = Kept::default();
    app.write_all(&[stdout(OK), end(0)].concat()).await.unwrap();
    connection.exchange(get(), Params::new(), kept.clone()).await.unwrap();
    let mut connection = kept.take().unwrap();
    assert!(poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await);
    app.write_all(&stdout("late")).await.unwrap();
    assert!(!poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await);
    let (app, mut connection) = pair();
    drop(app);
    assert!(!poll_fn(|cx| Poll::Ready(connection.poll_usable(cx))).await);
}

#[tokio::test]
async fn stderr_is_logged_line_by_line_with_its_request() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.subscriber());
    let (mut app, io) = duplex(1 << 20);
    let connection = Connection::new(io, Arc::new(Limits::new().max_stderr_bytes(10_000)));
    let records = [
        stderr("PHP message: one\ntw"),
        stdout(OK),
        stderr("o\x1b[31m\r\n\n"),
        stderr(&"x".repeat(9000)),
        stderr(&"y".repeat(2000)),
        end(0),
    ];
    app.write_all(&records.concat()).await.unwrap();
    connection.exchange(get(), Params::new(), SingleUse).await.unwrap();
    let lines = lines.of("vestibule::fastcgi");
    let has = |at: usize, text: &str| assert!(lines[at].contains(text), "{text}: {lines:#?}");
    assert_eq!(lines.len(), 5, "{lines:#?}");
    has(0, r#"stderr="PHP message: one""#);
    has(0, r#"path="/a.php""#);
    has(0, "WARN");
    has(1, r#"stderr="two\u{1b}[31m""#);
    has(2, &"x".repeat(8 << 10));
    has(3, "yyy");
    has(4, "dropped=1028");
}
