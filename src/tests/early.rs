//! S3: if a request is answered without its body being read, the bytes of the body are never parsed as a
//! request.

use std::fs;

use http::StatusCode;
use tower::{Layer, service_fn};

use super::support::{exchange, start, statuses};
use crate::{Body, BoxError, Request, Response, Router, cache::CacheLayer, files};

#[tokio::test]
async fn s3_unread_body_after_early_answer_is_never_a_request() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("directory")).unwrap();
    fs::write(dir.path().join("a.txt"), "text").unwrap();
    let site = Router::new().nest("/static", files::dir(dir.path())).route(
        "/fails",
        service_fn(|_: Request| async { Err::<Response, BoxError>("expected".into()) }),
    );
    let page = service_fn(|_: Request| async {
        let page = Response::builder().header("cache-control", "max-age=60");
        Ok::<_, BoxError>(page.body(Body::from("page"))?)
    });
    let site = site.route("/cached", CacheLayer::new().layer(page));
    let site = site.route(
        "/empty",
        service_fn(|_: Request| async {
            Ok::<_, BoxError>(
                Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty())?,
            )
        }),
    );
    let front = start(site).await;
    let evil = "GET /static/evil HTTP/1.1\r\nHost: evil\r\n\r\n";
    let (length, chunks) = (evil.len(), format!("{:x}\r\n{evil}\r\n0\r\n\r\n", evil.len()));
    let framings = [
        (format!("Content-Length: {length}"), evil),
        ("Transfer-Encoding: chunked".to_owned(), &chunks),
    ];
    // A file (the second time from the cache), a refusal, a redirect, a missing file, a stored response, an error.
    for (method, path, status) in [
        ("GET", "/static/a.txt", 200),
        ("GET", "/static/a.txt", 200),
        ("HEAD", "/static/a.txt", 200),
        ("POST", "/static/a.txt", 405),
        ("GET", "/static/none", 404),
        ("GET", "/static/directory", 308),
        ("GET", "/static/%2e%2e/a", 400),
        ("GET", "/missing", 404),
        ("DELETE", "/empty", 204),
        ("GET", "/cached", 200),
        ("GET", "/cached", 200),
        ("POST", "/fails", 500),
    ] {
        for (framing, body) in &framings {
            let first = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
            let last = "GET /static/a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let answer = exchange(front.addr, format!("{first}{first}{last}")).await;
            // All three get a response, or the connection ends after a response with `connection: close`.
            let (got, expected) = (statuses(&answer), [status, status, 200]);
            let closed = answer.matches("connection: close\r\n").count() == 1;
            let is_prefix = expected.starts_with(&got) && !got.is_empty() && closed;
            assert!(is_prefix, "{method} {path} {framing}: {answer}");
            assert!(got.len() == 3 || framing.starts_with('T'), "so small a body is drained");
        }
    }
    front.stop().await;
}
