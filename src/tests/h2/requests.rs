//! Requests and responses.

use std::sync::Mutex;

use h2::Reason;
use http::{HeaderMap, Request as HttpRequest};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, oneshot},
};
use tower::service_fn;

use super::*;
use crate::{BoxError, conn::access_log::Entry};

/// Echoes the body in pieces, and sends the request's trailers back.
fn echo() -> impl HttpService<Body, Future: Send> + Clone + Send + 'static {
    service_fn(async |request: Request| {
        let collected = request.into_body().collect().await?;
        let trailers = collected.trailers().cloned();
        let (tx, body) = Body::channel(None);
        for piece in collected.to_bytes().chunks(10_000) {
            tx.send(Bytes::copy_from_slice(piece)).unwrap();
        }
        tx.finish(trailers);
        Ok::<_, BoxError>(Response::new(body))
    })
}

#[tokio::test]
async fn request_equals_that_of_http1_and_response_has_a_date() {
    let mut client = connect(tell(), Config::new()).await;
    let request = HttpRequest::get("http://a.example:81/x?y=1").header("cookie", "a");
    let response = send(&mut client, request, "").await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    assert!(response.headers()["date"].to_str().unwrap().ends_with(" GMT"));
    assert_eq!(response.headers()["content-length"], "23");
    assert_eq!(read(response).await.unwrap(), "GET /x?y=1 a.example:81");
    let response = send(&mut client, HttpRequest::head("http://a/"), "").await.unwrap();
    assert_eq!(response.headers()["content-length"], "8");
    assert_eq!(read(response).await.unwrap(), "");
    let options = HttpRequest::options("http://a/*");
    assert_eq!(send(&mut client, options, "").await.unwrap().status(), 200);
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    let mut client = connect(echo(), Config::new()).await;
    let request = HttpRequest::post("http://a/").body(()).unwrap();
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let piece = Bytes::from(vec![b'x'; 300_000]);
    let sent = tokio::spawn(async move {
        for _ in 0..5 {
            let mut piece = piece.clone();
            while !piece.is_empty() {
                stream.reserve_capacity(piece.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                let n = room.unwrap().unwrap().min(piece.len());
                stream.send_data(piece.split_to(n), false).unwrap();
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let response = within(response).await.unwrap();
    sent.await.unwrap();
    let mut body = response.into_body();
    let mut len = 0;
    while let Some(data) = within(body.data()).await {
        len += data.as_ref().unwrap().len();
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    assert_eq!(len, 1_500_000);
    assert_eq!(within(body.trailers()).await.unwrap().unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn response_loses_trailers_that_apply_to_a_connection() {
    let service = service_fn(async |_: Request| {
        let mut trailers = HeaderMap::new();
        for name in OF_CONNECTION.into_iter().chain(["x-sum"]) {
            trailers.insert(name, "7".parse().unwrap());
        }
        let (tx, body) = Body::channel(None);
        tx.send("body".into()).unwrap();
        tx.finish(Some(trailers));
        Ok::<_, Infallible>(Response::new(body))
    });
    let mut client = connect(service, Config::new()).await;
    let mut body = send(&mut client, HttpRequest::get("http://a/"), "").await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "body");
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers, HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]));
}

#[tokio::test]
async fn trailers_that_http1_refuses_abort_the_body() {
    for (name, status) in [("x-sum", 200), ("content-length", 400), ("transfer_encoding", 400)] {
        let mut client = connect(echo(), Config::new()).await;
        let request = HttpRequest::post("http://a/").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("body".into(), false).unwrap();
        let trailers = HeaderMap::from_iter([(name.parse().unwrap(), "7".parse().unwrap())]);
        stream.send_trailers(trailers).unwrap();
        assert_eq!(within(response).await.unwrap().status(), status, "{name}");
    }
}

#[tokio::test]
async fn unread_body_stops_its_client_and_no_other() {
    let (answer, answered) = oneshot::channel::<()>();
    let answered = Arc::new(Mutex::new(Some(answered)));
    let service = service_fn(move |request: Request| {
        let answered = answered.lock().unwrap().take();
        async move {
            let body = request.into_body(); // not read
            if let Some(answered) = answered {
                let _ = answered.await;
            }
            drop(body);
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    });
    let mut client = connect(service, Config::new()).await;
    let request = HttpRequest::post("http://a/").body(()).unwrap();
    let (first, mut stream) = client.send_request(request, false).unwrap();
    stream.reserve_capacity(10 << 20);
    stream.send_data(Bytes::from(vec![0; 10 << 20]), true).unwrap();
    // The others are served meanwhile.
    for _ in 0..10 {
        let response = send(&mut client, HttpRequest::post("http://a/"), "body").await.unwrap();
        assert_eq!(read(response).await.unwrap(), "done");
    }
    // The window of the stream, and what the channel to its reader takes.
    assert!(stream.capacity() < 10 << 20);
    answer.send(()).unwrap();
    let response = within(first).await.unwrap();
    assert_eq!(read(response).await.unwrap(), "done");
}

#[tokio::test]
async fn panic_fails_one_response_and_failed_body_resets_its_stream() {
    let service = service_fn(async |request: Request| {
        match request.uri().path() {
            "/panic" => panic!("as it was asked to"),
            "/error" => return Err("failed"),
            "/body" => {
                let (tx, body) = Body::channel(None);
                tx.send("some".into()).unwrap();
                tx.abort("broken");
                return Ok(Response::new(body));
            }
            "/status" => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
                return Ok(response);
            }
            _ => {}
        }
        Ok(Response::new(Body::from("fine")))
    });
    let mut client = connect(service, Config::new()).await;
    for (path, status) in [("panic", 500), ("error", 500), ("status", 500), ("", 200)] {
        let request = HttpRequest::get(format!("http://a/{path}"));
        assert_eq!(send(&mut client, request, "").await.unwrap().status(), status, "{path}");
    }
    let mut response = send(&mut client, HttpRequest::get("http://a/body"), "").await.unwrap();
    assert_eq!(within(response.body_mut().data()).await.unwrap().unwrap(), "some");
    let error = read(response).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert_eq!(send(&mut client, HttpRequest::get("http://a/"), "").await.unwrap().status(), 200);
}

#[tokio::test]
async fn request_waits_for_readiness_and_disconnected_client_holds_no_capacity() {
    let places = Arc::new(Semaphore::new(1));
    let limited = tower::limit::ConcurrencyLimit::with_semaphore(
        service_fn(async |request: Request| {
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Body::from("served")))
        }),
        places.clone(),
    );
    let mut client = connect(limited, Config::new()).await;
    let place = places.clone().acquire_owned().await.unwrap();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let request = HttpRequest::get("http://a/").body(()).unwrap();
            client.send_request(request, true).unwrap().0
        })
        .collect();
    let mut waiting = waiting.into_iter();
    drop(waiting.next()); // cancelled
    tokio::task::yield_now().await;
    drop(place);
    for response in waiting {
        assert_eq!(read(within(response).await.unwrap()).await.unwrap(), "served");
    }
    within(async {
        while places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn interim_response_comes_when_the_service_reads() {
    let (read, reads) = oneshot::channel::<()>();
    let reads = Arc::new(Mutex::new(Some(reads)));
    let service = service_fn(move |request: Request| {
        let reads = reads.lock().unwrap().take().unwrap();
        async move {
            reads.await.unwrap();
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, BoxError>(Response::new(Body::from(body)))
        }
    });
    let mut client = connect(service, Config::new()).await;
    let request = HttpRequest::post("http://a/").header("expect", "100-continue");
    let (mut response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut interim = Box::pin(std::future::poll_fn(|cx| response.poll_informational(cx)));
    for _ in 0..5 {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(interim.as_mut().poll(&mut cx).is_pending());
        tokio::task::yield_now().await;
    }
    read.send(()).unwrap();
    assert_eq!(within(interim).await.unwrap().unwrap().status(), 100);
    stream.send_data("body".into(), true).unwrap();
    assert_eq!(super::read(within(response).await.unwrap()).await.unwrap(), "body");
}

#[tokio::test]
async fn access_log_has_an_entry_for_each_response() {
    let log: Arc<Mutex<Vec<Entry>>> = Arc::default();
    let entries = log.clone();
    let config = Config::new().access_log(move |entry| entries.lock().unwrap().push(entry.clone()));
    let mut client = connect(tell(), config).await;
    for path in ["one", "two"] {
        let request = HttpRequest::get(format!("http://a/{path}"));
        read(send(&mut client, request, "").await.unwrap()).await.unwrap();
    }
    let refused = HttpRequest::get("http://a/").header("host", "b");
    assert_eq!(send(&mut client, refused, "").await.unwrap().status(), 400);
    let log = log.lock().unwrap();
    let facts: Vec<_> = log
        .iter()
        .map(|e| (e.uri.as_ref().unwrap().path(), e.status.unwrap().as_u16(), e.bytes, e.complete))
        .collect();
    assert_eq!(facts[..2], [("/one", 200, 10, true), ("/two", 200, 10, true)]);
    assert_eq!((facts[2].1, facts[2].3), (400, true));
    let local_replies: Vec<_> = log.iter().map(|entry| entry.local_reply).collect();
    assert_eq!(local_replies, [false, false, true]);
    assert_eq!(log[1].id.request(), 2);
    assert_eq!(log[0].version, Some(http::Version::HTTP_2));
    assert_eq!(log[0].host.as_ref().unwrap(), "a");
}

#[tokio::test]
async fn drain_finishes_requests_and_sends_goaway_in_two_steps() {
    let (drain, watch) = drain();
    let (answer, answered) = oneshot::channel::<()>();
    let answered = Arc::new(Mutex::new(Some(answered)));
    let service = service_fn(move |_: Request| {
        let answered = answered.lock().unwrap().take();
        async move {
            if let Some(answered) = answered {
                let _ = answered.await;
            }
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    });
    let served = serve_watched(service, Config::new(), watch);
    let mut client = client_of(served.client).await;
    let request = HttpRequest::get("http://a/").body(()).unwrap();
    let (first, _) = client.send_request(request, true).unwrap();
    tokio::task::yield_now().await;
    drain.begin();
    answer.send(()).unwrap();
    assert_eq!(read(within(first).await.unwrap()).await.unwrap(), "done");
    within(served.task).await.unwrap().unwrap();
    within(drain.ended()).await;
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port() {
    let mut client = connect(tell(), Config::new()).await;
    let response = send(&mut client, HttpRequest::get("http://a/"), "").await.unwrap();
    assert_eq!(read(response).await.unwrap(), "GET / a");
    // A method with the preface's first letter, in single bytes, too.
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n", "PRI / HTTP/1.1\r\nHost: a\r\n", "P"] {
        let mut served = serve(tell(), Config::new());
        for byte in request.bytes() {
            served.client.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        served.client.write_all(b"Connection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        within(served.client.read_to_string(&mut answer)).await.unwrap();
        let status = if request == "P" { "HTTP/1.1 400 " } else { "HTTP/1.1 200 " };
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
    let config = Config::new().without_http2();
    let mut served = serve(tell(), config);
    served.client.write_all(crate::proto::h2::PREFACE).await.unwrap();
    let mut answer = String::new();
    within(served.client.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 ") || answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn early_hints_come_before_the_response_and_without_fields_of_http1() {
    use crate::conn::{InterimResponses, MAX_INTERIM};

    let (go_on, waits) = oneshot::channel::<()>();
    let waits = Arc::new(Mutex::new(Some(waits)));
    let service = service_fn(move |request: Request| {
        let waits = waits.lock().unwrap().take().unwrap();
        async move {
            let interim = request.extensions().get::<InterimResponses>().unwrap().clone();
            let hint = |link: &str| {
                let mut headers = HeaderMap::new();
                headers.insert("link", link.parse().unwrap());
                headers.insert("connection", "close".parse().unwrap());
                headers.insert("content-length", "5".parse().unwrap());
                interim.send(http::StatusCode::EARLY_HINTS, headers)
            };
            hint("</a.css>; rel=preload").unwrap();
            waits.await.unwrap();
            for _ in 0..MAX_INTERIM {
                hint("</b.css>").unwrap();
            }
            assert!(hint("</c.css>").is_err(), "they are bounded");
            Ok::<_, Infallible>(Response::new(Body::from("done")))
        }
    });
    let mut client = connect(service, Config::new()).await;
    let request = HttpRequest::get("http://a/").body(()).unwrap();
    let (mut response, _) = client.send_request(request, true).unwrap();
    let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
    let first = within(interim).await.unwrap().unwrap();
    assert_eq!((first.status().as_u16(), first.headers().len()), (103, 1));
    assert_eq!(first.headers()["link"], "</a.css>; rel=preload");
    go_on.send(()).unwrap();
    for _ in 0..MAX_INTERIM {
        let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
        assert_eq!(within(interim).await.unwrap().unwrap().headers()["link"], "</b.css>");
    }
    assert_eq!(read(within(response).await.unwrap()).await.unwrap(), "done");
}
