//! Tests with services of other crates, which fit unchanged.

mod files;
mod layers;

use std::convert::Infallible;

use axum::{Router, extract::Path, routing::get};
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, util::MapErrLayer};
use tower_http::services::ServeDir;

use super::support::{exchange, start, start_with, statuses};
use crate::{Body, BoxError, OriginalUri, PathParams, Request, Response};

#[tokio::test]
async fn serve_takes_axum_router() {
    let app = Router::new()
        .route(
            "/hello/{name}",
            get(|Path(name): Path<String>| async move { format!("hello {name}") }),
        )
        .route("/echo", axum::routing::post(|body: String| async move { body }));
    let server = start(app).await;
    let answer = exchange(
        server.addr,
        "GET /hello/world HTTP/1.1\r\nHost: a\r\n\r\n\
         POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answer), [200, 200]);
    assert!(
        answer.contains("\r\n\r\nhello world") && answer.ends_with("\r\n\r\nabcde"),
        "{answer}"
    );
    server.stop().await;
}

#[tokio::test]
async fn serve_takes_serve_dir_of_tower_http() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), "a".repeat(100_000)).unwrap();
    let server = start(ServeDir::new(directory.path())).await;
    let answer =
        exchange(server.addr, "GET /a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&answer), [200]);
    assert!(answer.contains("content-length: 100000\r\n"));
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, "a".repeat(100_000));
    server.stop().await;
}

#[tokio::test]
async fn serve_with_threads_serves_and_drains() {
    let hello = tower::service_fn(|_: Request| async {
        Ok::<_, Infallible>(Response::new(Body::from(
            std::thread::current().name().unwrap().to_owned(),
        )))
    });
    let server = start_with(hello, |s| s.runtime_threads(2)).await;
    for _ in 0..8 {
        let answer =
            exchange(server.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.contains("\r\n\r\nfront-"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn router_fits_into_an_axum_router() {
    let answer = tower::service_fn(async |request: Request| {
        let original = request.extensions().get::<OriginalUri>().unwrap().0.to_string();
        let (path, id) = (request.uri().path(), request.extensions().get::<PathParams>().unwrap());
        let text = format!("{original} {path} {} ", id.get("id").unwrap());
        let body = request.into_body().collect().await?.to_bytes();
        Ok::<_, BoxError>(Response::new(Body::from(text + str::from_utf8(&body)?)))
    });
    let ours = crate::Router::new().nest("/app", crate::Router::new().route("/{id}", answer));
    // The router accepts the body type of axum.
    let infallible = MapErrLayer::new(|error: BoxError| -> Infallible { panic!("{error}") });
    let ours = infallible.layer(ours);
    let app = Router::new().nest_service("/nested", ours.clone()).fallback_service(ours);
    for (uri, want) in [
        ("/app/7", "/app/7 /7 7 body"),
        ("/nested/app/7", "/app/7 /7 7 body"),
        ("/nested/app/7/8", "404 Not Found\n"),
        ("/app/..%2f", "400 Bad Request\n"),
    ] {
        let request = http::Request::post(uri).body(axum::body::Body::from("body")).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, want, "{uri}");
    }
}
