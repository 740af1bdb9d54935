//! Tests of the access log.

use std::{
    future::pending,
    io::{self, Write},
    sync::Mutex,
};

use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::BoxError;

use super::{super::probe::Probe, *};
use crate::error::{Error, Kind};

type Lines = Arc<Mutex<Vec<Entry>>>;

/// A log of a service that answers with `body`, and its lines.
fn logged(body: Body) -> (impl Service<Request, Response = Response, Error = BoxError>, Lines) {
    let lines = Lines::default();
    let written = lines.clone();
    let layer = LogLayer::with(move |e: &Entry| written.lock().unwrap().push(e.clone()));
    let body = Arc::new(Mutex::new(Some(body)));
    let service = layer.layer(Probe::new(move |_: Request| {
        let body = body.lock().unwrap().take().expect("called once");
        std::future::ready(Ok::<_, BoxError>(Response::new(body)))
    }));
    (service, lines)
}

fn one(lines: &Lines) -> Entry {
    let lines = lines.lock().unwrap();
    assert_eq!(lines.len(), 1, "one line for a request");
    lines[0].clone()
}

#[tokio::test]
async fn body_in_memory_or_file_keeps_its_kind_and_is_logged_at_once() {
    let (log, lines) = logged("hello".into());
    let mut request = Request::get("/a?token=1").version(Version::HTTP_10).body(Body::empty());
    let peer = Peer::tcp("192.0.2.1:5".parse().unwrap(), "192.0.2.9:80".parse().unwrap());
    request.as_mut().unwrap().extensions_mut().insert(peer.clone());
    let response = log.oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.body().as_bytes().unwrap(), "hello");
    let entry = one(&lines);
    assert_eq!(entry.peer, Some(peer));
    assert_eq!((entry.method, entry.version), (Method::GET, Version::HTTP_10));
    assert_eq!(entry.uri, "/a?token=1");
    assert_eq!((entry.status, entry.bytes, entry.complete), (Some(StatusCode::OK), 5, true));

    let file = Arc::new(tempfile::tempfile().unwrap());
    let (log, lines) = logged(Body::file(crate::body::FileSlice::new(file, 0, 10)));
    let response = log.oneshot(Request::default()).await.unwrap();
    assert!(response.body().as_file().is_some());
    assert_eq!(one(&lines).bytes, 10);
}

#[tokio::test]
async fn stream_is_logged_at_its_end_with_bytes_sent() {
    let (tx, body) = Body::channel(None);
    let (log, lines) = logged(body);
    let mut body = log.oneshot(Request::default()).await.unwrap().into_body();
    tx.send("abc".into()).unwrap();
    body.frame().await.unwrap().unwrap();
    assert!(lines.lock().unwrap().is_empty());
    tx.send("de".into()).unwrap();
    tx.finish(None);
    body.frame().await.unwrap().unwrap();
    assert!(body.frame().await.is_none());
    assert_eq!((one(&lines).bytes, one(&lines).complete), (5, true));
    drop(body);
    assert_eq!(lines.lock().unwrap().len(), 1, "once");
}

#[tokio::test]
async fn stream_that_fails_or_is_dropped_is_logged_as_incomplete() {
    for breaks in [true, false] {
        let (tx, body) = Body::channel(Some(9));
        let (log, lines) = logged(body);
        let mut body = log.oneshot(Request::default()).await.unwrap().into_body();
        assert_eq!(body.len(), Some(9));
        tx.send("abc".into()).unwrap();
        body.frame().await.unwrap().unwrap();
        if breaks {
            tx.abort("cut");
            assert!(body.frame().await.unwrap().is_err());
        } else {
            drop(body);
        }
        assert_eq!((one(&lines).bytes, one(&lines).complete), (3, false));
    }
}

#[tokio::test]
async fn response_read_to_its_known_length_is_logged_as_complete() {
    let (tx, body) = Body::channel(Some(3));
    let (log, lines) = logged(body);
    let mut body = log.oneshot(Request::default()).await.unwrap().into_body();
    tx.send("abc".into()).unwrap();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert!(one(&lines).complete);
}

#[tokio::test]
async fn response_to_head_is_logged_with_no_bytes() {
    let (log, lines) = logged("hello".into());
    log.oneshot(Request::head("/").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!((one(&lines).bytes, one(&lines).complete), (0, true));
}

#[tokio::test(start_paused = true)]
async fn request_without_response_is_logged_too() {
    let lines = Lines::default();
    let written = lines.clone();
    let layer = LogLayer::with(move |e: &Entry| written.lock().unwrap().push(e.clone()));
    let log = layer.layer(Probe::new(async |r: Request| {
        if r.uri().path() == "/fails" {
            return Err::<Response, _>(Error::new(Kind::Internal, "x"));
        }
        pending().await
    }));
    let fails = Request::get("/fails").body(Body::empty()).unwrap();
    assert!(log.clone().oneshot(fails).await.is_err());
    assert_eq!(one(&lines).status, None);

    lines.lock().unwrap().clear();
    let left = log.oneshot(Request::default());
    assert!(tokio::time::timeout(Duration::from_millis(7), left).await.is_err());
    let entry = one(&lines);
    assert_eq!((entry.status, entry.elapsed.as_millis()), (None, 7));
}

/// Where a subscriber writes.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn default_line_has_every_field_but_the_query() {
    let sink = Sink::default();
    let written = sink.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || written.clone()).with_ansi(false).finish();
    let entry = Entry {
        peer: Some(Peer::unix()),
        method: Method::POST,
        uri: "/a?secret=1".parse().unwrap(),
        version: Version::HTTP_11,
        status: Some(StatusCode::CREATED),
        bytes: 12,
        complete: true,
        elapsed: Duration::from_millis(3),
    };
    tracing::subscriber::with_default(subscriber, || trace(&entry));
    let line = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let expected = "vestibule::access: client=unix scheme=\"http\" method=\"POST\" path=\"/a\" \
                    version=HTTP/1.1 status=201 bytes=12 complete=true micros=3000";
    assert!(line.contains(expected), "{line}");
}
