//! Tests of all deadlines of a connection, in virtual time: a slow client that meets them is served, and any other is aborted
//! at the configured time.

mod readers;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimit, service_fn};

use super::support::statuses;
use crate::{
    Body, Request, Response, Router,
    conn::{
        Config, Http1Config, Transport,
        h1::{client, server::Connection},
    },
    error::Error,
    files::{DirBuilder, Embedded},
    layer::{ForwardAuthLayer, RequestBufferLayer},
    net::DrainWatch,
    peer::{Deadline, MinRate, Peer},
    proto::h1::Limits,
    serve,
};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Returns the configuration of the tests. All times differ, so that they can be told apart.
fn config() -> Config {
    let limits = Limits {
        head_timeout: secs(20),
        idle_timeout: secs(70),
        body_timeout: secs(30),
        body_rate: MinRate::new(10, secs(60)),
        body_total_timeout: secs(1000),
        ..Limits::default()
    };
    Config::new()
        .limits(limits)
        .ready_timeout(secs(25))
        .answer_timeout(secs(300))
        .write_timeout(secs(60))
        .write_rate(MinRate::new(10, secs(120)))
        .http1(Http1Config::new().linger(secs(5)))
}

/// Starts a connection over a pipe of 64 bytes, to an application that responds as the path names. For `/late` it takes a
/// second after the body.
fn connect() -> (DuplexStream, JoinHandle<std::io::Result<()>>) {
    let app = service_fn(|request: Request| async move {
        match request.uri().path() {
            "/never" => std::future::pending::<()>().await,
            "/kilobyte" => {
                return Ok::<_, Infallible>(Response::new(Body::from(vec![b'k'; 1000])));
            }
            _ => {}
        }
        let is_late = request.uri().path() == "/late";
        let status = match request.into_body().collect().await {
            Ok(_) => 200,
            Err(_) => 408,
        };
        if is_late {
            sleep(secs(1)).await;
        }
        Ok(Response::builder().status(status).body(Body::empty()).unwrap())
    });
    let (client, io) = tokio::io::duplex(64);
    let connection = Connection::new(
        Transport::new(io, Peer::memory(), DrainWatch::never()),
        app,
        Arc::new(config()),
    );
    (client, tokio::spawn(connection))
}

/// Sends a piece at each interval of `every`, then reads to the end. Returns the response and the time.
async fn send(pieces: &[&str], every: Duration) -> (String, Duration) {
    let (mut client, _task) = connect();
    let start = Instant::now();
    let (mut read, mut write) = tokio::io::split(&mut client);
    let mut answer = String::new();
    let all = read.read_to_string(&mut answer);
    let sending = async {
        for piece in pieces {
            if write.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
            sleep(every).await;
        }
        std::future::pending::<()>().await; // the client sends nothing more
    };
    tokio::select! {
        result = all => drop(result.unwrap()),
        () = sending => unreachable!(),
    }
    (answer, start.elapsed())
}

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn r1_r2_head_has_total_deadline() {
    let (answer, took) = send(&[], secs(1)).await;
    assert_eq!((answer.as_str(), took.as_secs()), ("", 20), "R2: it said nothing");
    let trickle: Vec<String> =
        "GET / HTTP/1.1\r\nHost: abcdefghijklmnopq".chars().map(String::from).collect();
    let trickle: Vec<&str> = trickle.iter().map(String::as_str).collect();
    let (answer, took) = send(&trickle, secs(1)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![408], 20), "R1");
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed_without_a_response() {
    let (answer, took) = send(&["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], secs(1)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![200], 70));
}

#[tokio::test(start_paused = true)]
async fn r3_stalled_body_is_answered_with_408() {
    let (answer, took) = send(&[HEAD, "ABC"], secs(2)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![408], 2 + 30));
}

#[tokio::test(start_paused = true)]
async fn service_has_its_whole_time_after_a_long_upload_has_failed() {
    let mut pieces = vec!["POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"];
    pieces.extend(["0123456789abcdefghij"; 310]);
    let (answer, took) = send(&pieces, secs(1)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![408], 310 + 30 + 1));
}

#[tokio::test(start_paused = true)]
async fn r3_body_below_the_minimum_rate_is_answered_with_408() {
    let mut pieces = vec![HEAD];
    pieces.extend(["x"; 99]);
    // One byte in 25 s, which adds 0.1 s at the rate. No pause lasts 30 s.
    let (answer, took) = send(&pieces, secs(25)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![408], 60));
}

#[tokio::test(start_paused = true)]
async fn body_at_the_minimum_rate_is_accepted() {
    let mut pieces = vec![HEAD];
    pieces.extend(["0123456789"; 10]);
    let (answer, took) = send(&pieces, secs(1)).await;
    assert_eq!(statuses(&answer), [200]);
    assert_eq!(took.as_secs(), 10 + 70, "then it was idle");
}

#[tokio::test(start_paused = true)]
async fn fast_endless_body_reaches_its_total_timeout() {
    let mut pieces = vec!["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"];
    pieces.extend(["14\r\n01234567890123456789\r\n"; 2000]);
    let (answer, took) = send(&pieces, secs(1)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![408], 1000));
}

#[tokio::test(start_paused = true)]
async fn service_without_response_is_dropped_after_its_timeout() {
    let whole = "GET /never HTTP/1.1\r\nHost: a\r\n\r\n";
    let (answer, took) = send(&[whole], secs(1)).await;
    assert_eq!((statuses(&answer), took.as_secs()), (vec![504], 300));
    // The service does not read the body; the time runs from when it could.
    let unread = "POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let much = "x".repeat(70_000);
    let (answer, took) = send(&[unread, &much], secs(1)).await;
    assert_eq!(statuses(&answer), [504]);
    assert!((300..=310).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn time_of_unready_service_is_not_charged_to_the_client() {
    // The service is busy for longer than `body_timeout`, and nothing is read in that time.
    let ready = Instant::now() + secs(40);
    let app = service_fn(|request: Request| async move {
        let status = if request.into_body().collect().await.is_ok() { 200 } else { 408 };
        Ok::<_, Infallible>(Response::builder().status(status).body(Body::empty()).unwrap())
    });
    let app = NotBefore { ready: Box::pin(tokio::time::sleep_until(ready)), app };
    let (mut client, io) = tokio::io::duplex(64);
    let config = config().ready_timeout(secs(100));
    let connection = Connection::new(
        Transport::new(io, Peer::memory(), DrainWatch::never()),
        app,
        Arc::new(config),
    );
    // Polled every second, although nothing happens.
    let _task = tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        while tokio::time::timeout(secs(1), &mut connection).await.is_err() {}
    });
    client.write_all(HEAD.replace("100", "5").as_bytes()).await.unwrap();
    tokio::time::sleep_until(ready + secs(20)).await;
    client.write_all(b"hello").await.unwrap();
    let mut answer = vec![0; 15];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
}

#[tokio::test(start_paused = true)]
async fn wait_for_a_service_ends_with_the_deadline_of_the_request() {
    let never = service_fn(|_: Request| std::future::pending::<Result<Response, Infallible>>());
    let limited = ConcurrencyLimit::new(never, 1);
    let allow = service_fn(async |_: Request| Ok::<_, Infallible>(Response::new(Body::empty())));
    let files = DirBuilder::backend(Embedded::default());
    let router = Router::new()
        .route("/", limited.clone())
        .route("/buffered", RequestBufferLayer::new().layer(limited.clone()))
        .route("/files", files.or(limited.clone()))
        .route("/authorizer", ForwardAuthLayer::new(limited.clone(), "/").layer(allow))
        .route("/authorized", ForwardAuthLayer::new(allow, "/").layer(limited));
    let request = Request::get("/").body(Body::empty()).unwrap();
    let mut holder = Box::pin(router.clone().oneshot(request));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(holder.as_mut().poll(&mut cx).is_pending()); // it has the only permit
    for path in ["/", "/buffered", "/files", "/authorizer", "/authorized"] {
        let start = Instant::now();
        let deadline = Deadline((start + secs(3)).into_std());
        let request = Request::get(path).extension(deadline).body(Body::empty()).unwrap();
        let waiting = tokio::time::timeout(secs(60), router.clone().oneshot(request));
        let error = waiting.await.expect("it waits longer").unwrap_err();
        assert!(Error::find(&*error).unwrap().is_timeout(), "{error}");
        assert_eq!(start.elapsed().as_secs(), 3, "{path}");
    }
    drop(holder);
}

/// A service that becomes ready at a given time.
struct NotBefore<S> {
    ready: std::pin::Pin<Box<tokio::time::Sleep>>,
    app: S,
}

impl<S: Service<Request>> Service<Request> for NotBefore<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        std::task::ready!(self.ready.as_mut().poll(cx));
        self.app.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> S::Future {
        self.app.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_answered_early_may_wait_for_the_rest_of_the_request() {
    let (mut server, io) = tokio::io::duplex(1 << 10);
    let limits = Limits { body_timeout: secs(30), ..Limits::default() };
    let connection = client::Connection::new(io, Arc::new(limits));
    let (upload, body) = Body::channel(None);
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    let response = connection.exchange(request, crate::conn::SingleUse).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..5 {
            sleep(secs(20)).await;
            upload.send("piece".into()).unwrap();
        }
        upload.finish(None);
        let mut received = String::new();
        let read = async {
            while !received.ends_with("0\r\n\r\n") {
                received.push(server.read_u8().await.unwrap().into());
            }
        };
        read.await;
        sleep(secs(29)).await;
        server.write_all(b"done").await.unwrap();
        server
    });
    let began = Instant::now();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "done");
    assert_eq!(began.elapsed().as_secs(), 129);
    drop(sending.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn server_that_leaves_the_request_unread_may_send_its_response() {
    let (mut server, io) = tokio::io::duplex(1 << 10);
    let limits = Limits { body_timeout: secs(30), ..Limits::default() };
    let connection = client::Connection::new(io, Arc::new(limits));
    let body = Body::from(vec![b'x'; 1 << 20]);
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let began = Instant::now();
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    let response = connection.exchange(request, crate::conn::SingleUse).await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..4 {
            sleep(secs(20)).await;
            server.write_all(b"x").await.unwrap();
        }
        server
    });
    let mut body = response.into_body();
    for _ in 0..4 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }
    assert!(body.frame().await.unwrap().is_err(), "it neither reads nor sends");
    assert_eq!(began.elapsed().as_secs(), 80 + 30);
    drop(sending.await.unwrap());
}

/// A service that acquires a permit at the first call of `poll_ready`, and is never ready.
#[derive(Clone)]
struct Reserving {
    permits: Arc<Semaphore>,
    reserved: Option<Arc<OwnedSemaphorePermit>>,
}

impl Service<Request> for Reserving {
    type Response = Response;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let permit = || Arc::new(self.permits.clone().try_acquire_owned().unwrap());
        self.reserved.get_or_insert_with(permit);
        Poll::Pending
    }

    fn call(&mut self, _: Request) -> Self::Future {
        unreachable!("it is not ready")
    }
}

#[tokio::test(start_paused = true)]
async fn lingering_connection_reserves_nothing_of_its_service() {
    let permits = Arc::new(Semaphore::new(1));
    let service = Reserving { permits: permits.clone(), reserved: None };
    let (mut client, io) = tokio::io::duplex(1 << 10);
    let transport = Transport::new(io, Peer::memory(), DrainWatch::never());
    let task = tokio::spawn(Connection::new(transport, service, Arc::new(config())));
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(secs(1)).await;
    assert_eq!(permits.available_permits(), 0);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(statuses(&answer), [503]);
    assert!(!task.is_finished(), "it does not wait for the client to close");
    assert_eq!(permits.available_permits(), 1);
}
